//! A local time, and `strftime` over it as Python has it in the C locale.

use crate::error::{invalid, Result};

/// A moment of the proleptic Gregorian calendar, without a zone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CivilTime {
    pub year: i64,
    pub month: i64,  // 1 to 12
    pub day: i64,    // 1 to 31
    pub hour: i64,   // 0 to 23
    pub minute: i64, // 0 to 59
    pub second: i64, // 0 to 60
}

const MONTHS: [&str; 12] = [
    "January", "February", "March", "April", "May", "June", "July", "August", "September",
    "October", "November", "December",
];
const WEEKDAYS: [&str; 7] =
    ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];

fn is_leap(year: i64) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

fn days_in(year: i64, month: i64) -> i64 {
    match month {
        2 => 28 + i64::from(is_leap(year)),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

impl CivilTime {
    /// "2026-11-28T09:30:00"; a blank may stand for the T, and the seconds may be left out.
    pub fn parse(text: &str) -> Result<CivilTime> {
        let wrong = || {
            invalid(format!(
                "\"{}\" is not a local time; write it as 2026-11-28T09:30:00",
                text.chars().take(40).collect::<String>()
            ))
        };
        let (date, time) = text.split_once(['T', ' ']).ok_or_else(wrong)?;
        let numbers = |part: &str, sign: char| -> Result<Vec<i64>> {
            part.split(sign)
                .map(|digits| {
                    let plain = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
                    if !plain || digits.len() > 4 {
                        return Err(wrong());
                    }
                    digits.parse().map_err(|_| wrong())
                })
                .collect()
        };
        let (date, time) = (numbers(date, '-')?, numbers(time, ':')?);
        let (&[year, month, day], &[hour, minute, ref rest @ ..]) = (&date[..], &time[..]) else {
            return Err(wrong());
        };
        let second = match rest {
            [] => 0,
            [second] => *second,
            _ => return Err(wrong()),
        };
        let valid = (1..=12).contains(&month)
            && year >= 1
            && (1..=days_in(year, month)).contains(&day)
            && hour < 24
            && minute < 60
            && second <= 60;
        if !valid {
            return Err(wrong());
        }
        Ok(CivilTime { year, month, day, hour, minute, second })
    }

    /// 1 to 366.
    fn day_of_year(&self) -> i64 {
        (1..self.month).map(|month| days_in(self.year, month)).sum::<i64>() + self.day
    }

    /// 0 is Sunday.
    fn weekday(&self) -> i64 {
        let before = self.year - 1;
        let days = before * 365 + before / 4 - before / 100 + before / 400 + self.day_of_year();
        days.rem_euclid(7)
    }

    /// ISO 8601's year and week.
    fn iso_week(&self) -> (i64, i64) {
        let weekday = (self.weekday() + 6) % 7; // 0 is Monday
        let week = (self.day_of_year() - 1 - weekday + 10) / 7;
        let weeks_in = |year: i64| {
            let last = CivilTime { year, month: 12, day: 31, ..*self };
            let first = CivilTime { year, month: 1, day: 1, ..*self };
            if last.weekday() == 4 || first.weekday() == 4 { 53 } else { 52 }
        };
        if week < 1 {
            (self.year - 1, weeks_in(self.year - 1))
        } else if week > weeks_in(self.year) {
            (self.year + 1, 1)
        } else {
            (self.year, week)
        }
    }

    pub fn strftime(&self, format: &str) -> String {
        let mut out = String::new();
        let mut rest = format.chars();
        while let Some(character) = rest.next() {
            if character != '%' {
                out.push(character);
                continue;
            }
            let directive = rest.clone();
            out.push_str(&match self.directive(&mut rest) {
                Some(text) => text,
                None => {
                    // Unknown ones stay as they are written.
                    let written = directive.as_str().len() - rest.as_str().len();
                    format!("%{}", &directive.as_str()[..written])
                }
            });
        }
        out
    }

    /// What follows a percent sign, with the flags, widths and modifiers of glibc.
    fn directive(&self, rest: &mut std::str::Chars) -> Option<String> {
        let (mut padding, mut upper, mut swapped, mut width) = (None, false, false, 0usize);
        let mut code = rest.next()?;
        loop {
            match code {
                '-' | '_' => padding = Some(code),
                '0' if width == 0 => padding = Some(code),
                '^' => upper = true,
                '#' => swapped = true,
                '0'..='9' => width = (width * 10 + code as usize - '0' as usize).min(1000),
                _ => break,
            }
            code = rest.next()?;
        }
        if matches!(code, 'E' | 'O') {
            code = rest.next()?;
        }
        let field = self.field(code)?;
        let is_number = field.bytes().all(|byte| byte.is_ascii_digit() || byte == b' ') && field != " ";
        let natural = if is_number { field.len() } else { 0 };
        let bare = if is_number && natural > 0 {
            match field.trim_start_matches(['0', ' ']) {
                "" => "0",
                digits => digits,
            }
        } else {
            &field[..]
        };
        let is_blank_padded = matches!(code, 'e' | 'k' | 'l') || !is_number;
        let fill = match padding {
            Some('_') => " ",
            Some('0') => "0",
            _ if is_blank_padded => " ",
            _ => "0",
        };
        let room = match padding {
            Some('-') => 0,
            _ => width.max(natural).saturating_sub(bare.chars().count()),
        };
        let text = format!("{}{bare}", fill.repeat(room));
        Some(match (upper, swapped, code) {
            (_, true, 'p') => text.to_lowercase(),
            (true, ..) | (_, true, 'a' | 'A' | 'b' | 'B' | 'h') => text.to_uppercase(),
            _ => text,
        })
    }

    fn field(&self, code: char) -> Option<String> {
        let weekday = WEEKDAYS[self.weekday() as usize];
        let month = MONTHS[self.month as usize - 1];
        let hour12 = (self.hour + 11) % 12 + 1;
        let day_of_year = self.day_of_year();
        Some(match code {
            'a' => weekday[..3].to_owned(),
            'A' => weekday.to_owned(),
            'b' | 'h' => month[..3].to_owned(),
            'B' => month.to_owned(),
            'c' => self.strftime("%a %b %e %H:%M:%S %Y"),
            'C' => format!("{:02}", self.year / 100),
            'd' => format!("{:02}", self.day),
            'D' | 'x' => self.strftime("%m/%d/%y"),
            'e' => format!("{:2}", self.day),
            'f' => "000000".to_owned(),
            'F' => self.strftime("%Y-%m-%d"),
            'g' => format!("{:02}", self.iso_week().0 % 100),
            'G' => self.iso_week().0.to_string(),
            'H' => format!("{:02}", self.hour),
            'I' => format!("{hour12:02}"),
            'j' => format!("{day_of_year:03}"),
            'k' => format!("{:2}", self.hour),
            'l' => format!("{hour12:2}"),
            'm' => format!("{:02}", self.month),
            'M' => format!("{:02}", self.minute),
            'n' => "\n".to_owned(),
            'p' => if self.hour < 12 { "AM" } else { "PM" }.to_owned(),
            'P' => if self.hour < 12 { "am" } else { "pm" }.to_owned(),
            'r' => self.strftime("%I:%M:%S %p"),
            'R' => self.strftime("%H:%M"),
            'S' => format!("{:02}", self.second),
            't' => "\t".to_owned(),
            'T' | 'X' => self.strftime("%H:%M:%S"),
            'u' => ((self.weekday() + 6) % 7 + 1).to_string(),
            'U' => format!("{:02}", (day_of_year + 6 - self.weekday()) / 7),
            'V' => format!("{:02}", self.iso_week().1),
            'w' => self.weekday().to_string(),
            'W' => format!("{:02}", (day_of_year + 6 - (self.weekday() + 6) % 7) / 7),
            'y' => format!("{:02}", self.year % 100),
            'Y' => self.year.to_string(),
            'z' | 'Z' => String::new(), // the time has no zone, as Python's now() has none
            '%' => "%".to_owned(),
            _ => return None,
        })
    }
}
