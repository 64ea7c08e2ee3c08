//! Files made of records, each made when it is read: long texts about what changes meanwhile (`/proc/PID/maps`).
//!
//! As in Linux's sequence files a read makes whole records: at least one, then as many as it asks for and a page holds. What does not fit into the reader's
//! buffer is kept for the next read. A read from elsewhere makes the records before it once more: offsets are those of the text as it is then.

use alloc::vec::Vec;

use sync::Mutex;

use crate::file::File;
use crate::io::{Sink, Source};
use crate::types::OpenFlags;
use crate::{Errno, Result};

/// More than this is made for one read only if a single record is longer.
const PAGE: usize = 4096;

/// What a file is made of. Records have ascending keys; they may come and go between reads.
pub trait Records: Send + Sync + 'static {
    /// Appends the first record whose key is `key` or above to `text`. Returns the lowest key that one behind it may have, `None` if
    /// there was none to append.
    ///
    /// # Errors
    /// Those of the read.
    fn append(&self, key: u64, text: &mut Vec<u8>) -> Result<Option<u64>>;
}

/// Such a file, open.
pub struct RecordFile<R> {
    records: R,
    place: Mutex<Place>,
}

/// How far it was read.
#[derive(Default)]
struct Place {
    /// Offset in the file of the first byte that was not read.
    offset: u64,
    /// Made and not read: from `read` on.
    text: Vec<u8>,
    read: usize,
    /// Where the next record is looked for.
    key: u64,
}

impl<R: Records> RecordFile<R> {
    /// The file with these records.
    pub fn new(records: R) -> Self {
        Self { records, place: Mutex::new(Place::default()) }
    }
}

impl Place {
    /// Begins anew and passes over all that is before `offset`. Whether the text goes so far.
    fn seek(&mut self, records: &impl Records, offset: u64) -> Result<bool> {
        *self = Self { text: core::mem::take(&mut self.text), ..Self::default() };
        self.text.clear();
        while self.offset < offset {
            self.text.clear();
            let Some(key) = records.append(self.key, &mut self.text)? else { return Ok(false) };
            self.key = key;
            self.read = usize::try_from(offset - self.offset).unwrap_or(usize::MAX).min(self.text.len());
            self.offset += self.read as u64;
        }
        Ok(true)
    }

    /// Makes records until there are `wanted` bytes to read, or a page's worth.
    fn fill(&mut self, records: &impl Records, wanted: usize) -> Result<()> {
        self.text.drain(..self.read);
        self.read = 0;
        self.text.reserve(PAGE.saturating_sub(self.text.len()));
        while self.text.len() < wanted.min(PAGE) {
            let before = self.text.len();
            let Some(key) = records.append(self.key, &mut self.text)? else { break };
            if self.text.len() > PAGE && before != 0 {
                self.text.truncate(before);
                break;
            }
            self.key = key;
        }
        Ok(())
    }
}

impl<R: Records> File for RecordFile<R> {
    fn read(&self, position: &mut u64, sink: &mut dyn Sink, _flags: OpenFlags) -> Result<usize> {
        let mut place = self.place.lock();
        let there = (*position != 0 && *position == place.offset) || place.seek(&self.records, *position)?;
        if !there || sink.remaining() == 0 {
            return Ok(0);
        }
        place.fill(&self.records, sink.remaining())?;
        let n = place.text.len().min(sink.remaining());
        let n = if n == 0 { 0 } else { sink.write(&place.text[..n])? };
        place.read = n;
        place.offset += n as u64;
        *position += n as u64;
        Ok(n)
    }

    fn write(&self, _position: &mut u64, _source: &mut dyn Source, _flags: OpenFlags) -> Result<usize> {
        Err(Errno::EIO)
    }

    fn seekable(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::VecSink;
    use std::collections::BTreeMap;
    use std::string::String;
    use std::sync::{Arc, Mutex as StdMutex};

    #[derive(Clone, Default)]
    struct Shelf(Arc<StdMutex<(BTreeMap<u64, String>, usize)>>);

    impl Records for Shelf {
        fn append(&self, key: u64, text: &mut Vec<u8>) -> Result<Option<u64>> {
            let mut shelf = self.0.lock().unwrap();
            shelf.1 += 1;
            let next = shelf.0.range(key..).next().map(|(&key, record)| {
                text.extend_from_slice(record.as_bytes());
                key + 1
            });
            Ok(next)
        }
    }

    impl Shelf {
        fn with(records: impl IntoIterator<Item = (u64, String)>) -> Self {
            Self(Arc::new(StdMutex::new((records.into_iter().collect(), 0))))
        }

        fn text(&self) -> String {
            self.0.lock().unwrap().0.values().cloned().collect()
        }

        fn made(&self) -> usize {
            self.0.lock().unwrap().1
        }
    }

    fn read(file: &RecordFile<Shelf>, position: &mut u64, n: usize) -> String {
        let mut sink = VecSink::new(n);
        let done = file.read(position, &mut sink, OpenFlags::RDONLY).unwrap();
        let got = sink.into_vec();
        assert_eq!(got.len(), done);
        String::from_utf8(got).unwrap()
    }

    fn lines(n: u64) -> Shelf {
        Shelf::with((0..n).map(|i| (i * 10, std::format!("record {i:06} {}\n", "x".repeat(i as usize % 50)))))
    }

    #[test]
    fn buffers_of_all_sizes_read_the_same_text() {
        let shelf = lines(500);
        for size in [1, 7, 64, 1000, 1024, 4095, 4096, 4097, 100_000] {
            let file = RecordFile::new(shelf.clone());
            let (mut position, mut text) = (0, String::new());
            loop {
                let more = read(&file, &mut position, size);
                if more.is_empty() {
                    break;
                }
                text += &more;
            }
            assert_eq!(text, shelf.text(), "buffers of {size} bytes");
        }
    }

    #[test]
    fn a_read_makes_whole_records_and_no_more_than_it_needs() {
        let shelf = lines(100_000);
        let file = RecordFile::new(shelf.clone());
        let first = read(&file, &mut 0, 4096);
        assert!(first.ends_with('\n') && first.len() < 4096 && first.len() > 3900);
        assert!(shelf.made() < 200);
    }

    #[test]
    fn a_record_longer_than_a_page_is_read_in_pieces() {
        let shelf = Shelf::with([(1, "a\n".to_owned()), (2, "b".repeat(10_000)), (3, "c\n".to_owned())]);
        let file = RecordFile::new(shelf.clone());
        let mut position = 0;
        assert_eq!(read(&file, &mut position, 4096), "a\n");
        let mut text = "a\n".to_owned();
        while text.len() < shelf.text().len() {
            text += &read(&file, &mut position, 4096);
        }
        assert_eq!(text, shelf.text());
        assert_eq!(read(&file, &mut position, 4096), "");
    }

    #[test]
    fn offsets_are_those_of_the_present_text() {
        let shelf = lines(300);
        let file = RecordFile::new(shelf.clone());
        let text = shelf.text();
        for offset in [5_000, 17, 0, 9_999, 1, text.len() - 1] {
            let part = read(&file, &mut { offset as u64 }, 100);
            assert_eq!(part, text[offset..(offset + 100).min(text.len())], "at {offset}");
        }
        assert_eq!(read(&file, &mut { text.len() as u64 }, 100), "");
        assert_eq!(read(&file, &mut 1_000_000, 100), "");
        shelf.0.lock().unwrap().0.insert(0, "new\n".to_owned());
        assert!(read(&file, &mut 0, 100).starts_with("new\n"));
    }

    #[test]
    fn records_that_come_and_go_meanwhile_do_not_disturb_the_others() {
        let shelf = lines(200);
        let file = RecordFile::new(shelf.clone());
        let mut position = 0;
        let begun = read(&file, &mut position, 4096);
        let read_so_far = begun.lines().count() as u64;
        {
            let mut all = shelf.0.lock().unwrap();
            all.0.remove(&0);
            all.0.remove(&(read_so_far * 10));
            all.0.insert(read_so_far * 10 + 5, "between\n".to_owned());
        }
        let next = read(&file, &mut position, 4096);
        assert!(next.starts_with("between\n"));
        assert!(next.lines().nth(1).unwrap().starts_with(&std::format!("record {:06}", read_so_far + 1)));
    }
}
