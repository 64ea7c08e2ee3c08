//! Waiting for descriptors: poll, select, epoll, eventfd and relatives.
