//! Sleeping synchronisation: Mutex, RwLock, CondVar, WaitQueue, Completion, Semaphore.

#![cfg_attr(not(test), no_std)]
