//! Unix time from the registers of a CMOS clock (Motorola MC146818).

/// The clock's registers as read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Registers {
    /// Register 0.
    pub second: u8,
    /// Register 2.
    pub minute: u8,
    /// Register 4; bit 7 means afternoon in 12-hour mode.
    pub hour: u8,
    /// Register 7.
    pub day: u8,
    /// Register 8.
    pub month: u8,
    /// Register 9.
    pub year: u8,
    /// Century, when the machine has a register for it.
    pub century: Option<u8>,
    /// Status register B: bit 2 binary instead of BCD, bit 1 24-hour mode.
    pub status_b: u8,
}

impl Registers {
    /// Seconds since 1970-01-01 00:00 UTC, taking the clock to run in UTC; `None` for an impossible date.
    #[must_use]
    pub fn unix_seconds(&self) -> Option<u64> {
        let (second, minute) = (self.number(self.second)?, self.number(self.minute)?);
        let (hour, day, month) = (self.hour()?, self.number(self.day)?, self.number(self.month)?);
        let year = self.full_year()?;
        if second > 59 || minute > 59 || !(1..=12).contains(&month) || day == 0 || day > days_in_month(year, month) {
            return None;
        }
        Some(((days_since_1970(year, month, day) * 24 + hour) * 60 + minute) * 60 + second)
    }

    /// A register's value; `None` for a nibble above 9 in BCD mode.
    fn number(&self, raw: u8) -> Option<u64> {
        if self.status_b & 4 != 0 {
            return Some(raw.into());
        }
        let (tens, ones) = (raw >> 4, raw & 15);
        (tens <= 9 && ones <= 9).then(|| u64::from(tens) * 10 + u64::from(ones))
    }

    fn hour(&self) -> Option<u64> {
        if self.status_b & 2 != 0 {
            return self.number(self.hour).filter(|h| *h < 24);
        }
        let hour = self.number(self.hour & 0x7f).filter(|h| (1..=12).contains(h))?;
        Some(hour % 12 + if self.hour & 0x80 != 0 { 12 } else { 0 })
    }

    fn full_year(&self) -> Option<u64> {
        let year = self.number(self.year).filter(|y| *y < 100)?;
        let century = self.century.and_then(|c| self.number(c)).filter(|c| (19..=99).contains(c));
        let full = match century {
            Some(century) => century * 100 + year,
            None => year + if year < 70 { 2000 } else { 1900 },
        };
        (full >= 1970).then_some(full)
    }
}

const fn is_leap(year: u64) -> bool {
    year.is_multiple_of(4) && !year.is_multiple_of(100) || year.is_multiple_of(400)
}

const fn days_in_month(year: u64, month: u64) -> u64 {
    match month {
        2 if is_leap(year) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

fn days_since_1970(year: u64, month: u64, day: u64) -> u64 {
    let leap_days = |y: u64| y / 4 - y / 100 + y / 400;
    let years = (year - 1970) * 365 + leap_days(year - 1) - leap_days(1969);
    years + (1..month).map(|m| days_in_month(year, m)).sum::<u64>() + day - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    const BINARY: u8 = 4 | 2;

    fn at(year: u8, month: u8, day: u8, hour: u8, century: Option<u8>, status_b: u8) -> Option<u64> {
        Registers { second: 0x30, minute: 0x15, hour, day, month, year, century, status_b }.unix_seconds()
    }

    #[test]
    fn bcd_dates_are_converted() {
        // date -u -d '2026-11-21 22:15:30' +%s
        assert_eq!(at(0x26, 0x11, 0x21, 0x22, Some(0x20), 2), Some(1_795_299_330));
        assert_eq!(at(0x26, 0x11, 0x21, 0x22, None, 2), Some(1_795_299_330));
        // 12-hour mode: 10 p.m.; noon and midnight.
        assert_eq!(at(0x26, 0x11, 0x21, 0x90, None, 0), Some(1_795_299_330));
        assert_eq!(at(0x70, 0x01, 0x01, 0x12, None, 0), Some(930));
        assert_eq!(at(0x70, 0x01, 0x01, 0x92, None, 0), Some(12 * 3600 + 930));
    }

    #[test]
    fn leap_days_count() {
        let day = |y, m, d, c| Registers {
            second: 0, minute: 0, hour: 0, day: d, month: m, year: y, century: Some(c), status_b: BINARY,
        };
        let seconds = |y, m, d, c| day(y, m, d, c).unix_seconds();
        assert_eq!(seconds(0, 2, 29, 20), Some(951_782_400));
        assert_eq!(seconds(0, 3, 1, 20), Some(951_868_800));
        assert_eq!(seconds(0, 2, 29, 21), None, "2100 is no leap year");
        assert_eq!(seconds(1, 1, 1, 21), Some(4_133_980_800));
    }

    #[test]
    fn impossible_dates_are_refused() {
        assert_eq!(at(0x26, 0x13, 0x21, 0x22, None, 2), None);
        assert_eq!(at(0x26, 0x00, 0x21, 0x22, None, 2), None);
        assert_eq!(at(0x26, 0x11, 0x00, 0x22, None, 2), None);
        assert_eq!(at(0x26, 0x11, 0x31, 0x22, None, 2), None);
        assert_eq!(at(0x26, 0x11, 0x21, 0x24, None, 2), None);
        assert_eq!(at(0xff, 0xff, 0xff, 0xff, Some(0xff), 0xff), None, "no clock there");
    }
}
