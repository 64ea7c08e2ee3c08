//! Host tests with real threads.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::vec::Vec;

use crate::{HashedName, NameTable};
use rcu::Domain;
use rcu::linked::Linked;

type Table = NameTable<u64, Linked, 4>;

fn find(table: &Table, parent: u64, name: &[u8]) -> Option<u64> {
    let reading = Linked::read();
    table.find(&reading, parent, &HashedName::new(name)).map(|entry| **entry)
}

#[test]
fn names_are_found_in_their_directory_only() {
    let table = Table::new();
    let long = [b'x'; 255];
    let names: [&[u8]; 6] = [b"a", b"b", b"", b"eight888", b"a name of thirty-two characters.", &long];
    let inserted: Vec<_> =
        names.iter().enumerate().map(|(at, name)| table.insert(at as u64 % 2, &HashedName::new(name), at as u64)).collect();
    for (at, name) in names.iter().enumerate() {
        assert_eq!(find(&table, at as u64 % 2, name), Some(at as u64));
        assert_eq!(find(&table, 2 + at as u64 % 2, name), None);
        assert_eq!(inserted[at].name(), *name);
    }
    assert_eq!(find(&table, 0, &long[..254]), None);
    for entry in inserted {
        table.remove(entry);
    }
    assert!(names.iter().all(|name| find(&table, 0, name).is_none() && find(&table, 1, name).is_none()));
}

#[test]
fn of_two_entries_the_newer_is_found() {
    let table = Table::new();
    let name = HashedName::new(b"name");
    let old = table.insert(9, &name, 1);
    let new = table.insert(9, &name, 2);
    assert_eq!(find(&table, 9, b"name"), Some(2));
    table.remove(old);
    assert_eq!(find(&table, 9, b"name"), Some(2));
    table.remove(new);
    assert_eq!(find(&table, 9, b"name"), None);
}

#[test]
fn readers_find_what_stays_while_writers_change_the_rest() {
    static TABLE: Table = Table::new();
    let stop = AtomicBool::new(false);
    let stays = TABLE.insert(1, &HashedName::new(b"stays"), 7);
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    assert_eq!(find(&TABLE, 1, b"stays"), Some(7));
                    assert!(matches!(find(&TABLE, 1, b"3"), None | Some(3)));
                }
            });
        }
        let writers: Vec<_> = (0..2_u64)
            .map(|writer| {
                scope.spawn(move || {
                    for round in 0..20_000_u64 {
                        let number = round % 5 * 2 + writer;
                        let name = std::format!("{number}");
                        let entry = TABLE.insert(1, &HashedName::new(name.as_bytes()), number);
                        TABLE.remove(entry);
                    }
                })
            })
            .collect();
        writers.into_iter().for_each(|writer| writer.join().unwrap());
        stop.store(true, Ordering::Relaxed);
    });
    TABLE.remove(stays);
}

#[test]
fn texts_are_equal_only_to_themselves() {
    let text: Vec<u8> = (0..64).collect();
    for len in 0..text.len() {
        assert!(crate::equal(&text[..len], &text[..len]));
        assert!(!crate::equal(&text[..len], &text[..len + 1]));
        for at in 0..len {
            let mut other = text[..len].to_vec();
            other[at] ^= 0x40;
            assert!(!crate::equal(&text[..len], &other), "byte {at} of {len}");
            assert_ne!(crate::hash(&text[..len]), crate::hash(&other), "byte {at} of {len}");
        }
    }
}
