//! The real data that README, tests and CI use: `examples/data/flights.csv.gz`.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use flate2::read::GzDecoder;

use crate::program::Logweir;

/// The file's position of `tailnum` in a row.
const TAILNUM: usize = 11;

/// One row: its key and its line as it stands in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flight<'a> {
    /// The aircraft (column `tailnum`); `NA` is one like any other.
    pub tailnum: &'a str,
    /// The line, without its line break.
    pub line: &'a str,
}

/// All flights of the file.
#[derive(Debug)]
pub struct Flights {
    csv: String,
}

impl Flights {
    /// How many rows the file has, its header not counted.
    pub const COUNT: usize = 336_776;
    /// How many partitions the topic "flights" is created with.
    pub const PARTITIONS: i32 = 12;

    /// The command that creates the topic "flights".
    #[must_use]
    pub fn create_topic(server: &str) -> Logweir {
        let partitions = Self::PARTITIONS.to_string();
        Logweir::new(&["topic", "create", "flights", "--partitions", &partitions]).server(server)
    }

    /// The command that produces rows to it, with the aircraft as the key.
    #[must_use]
    pub fn produce(server: &str, csv: &str) -> Logweir {
        let csv_with_key = ["--format", "csv", "--key-column", "tailnum"];
        let arguments = [&["produce", "flights"], &csv_with_key[..]].concat();
        Logweir::new(&arguments).server(server).input(csv)
    }

    /// Reads the file.
    ///
    /// # Panics
    /// If it is not there, or not what it should be.
    #[must_use]
    pub fn load() -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"))
            .parent()
            .expect("tests/ lies in the root");
        let file =
            File::open(root.join("examples/data/flights.csv.gz")).expect("the data is there");
        let mut csv = String::new();
        GzDecoder::new(file)
            .read_to_string(&mut csv)
            .expect("the data is gzip of UTF-8");
        let flights = Self { csv };
        assert_eq!(flights.rows().count(), Self::COUNT);
        flights
    }

    /// The file as it is, header included: what `zcat` gives.
    #[must_use]
    pub fn csv(&self) -> &str {
        &self.csv
    }

    /// The header and the first `count` rows.
    #[must_use]
    pub fn csv_of_first(&self, count: usize) -> &str {
        let end = self
            .csv
            .match_indices('\n')
            .nth(count)
            .map_or(self.csv.len(), |(at, _)| at + 1);
        &self.csv[..end]
    }

    /// The rows, in file order.
    ///
    /// # Panics
    /// If a row has no `tailnum`.
    pub fn rows(&self) -> impl Iterator<Item = Flight<'_>> {
        self.csv.lines().skip(1).map(|line| {
            // No cell of this file is quoted.
            Flight {
                tailnum: line.split(',').nth(TAILNUM).expect("a row has its cells"),
                line,
            }
        })
    }

    /// The lines of each key, in file order.
    #[must_use]
    pub fn by_tailnum(&self) -> BTreeMap<&str, Vec<&str>> {
        let mut keys: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for flight in self.rows() {
            keys.entry(flight.tailnum).or_default().push(flight.line);
        }
        keys
    }
}
