//! `blockferry hub token`.

use std::io::{self, Write};

use anyhow::Context as _;
use blockferry_control::catalog::UnixMillis;
use blockferry_control::hub::{TokenFacts, TokenId, Tokens};
use serde_json::json;

use super::options::TokenOptions;
use crate::exit::{Exit, Refusal};
use crate::output::{line, print_json};

/// `blockferry hub token`.
///
/// # Errors
/// What kept it from being done, in one line.
pub(super) fn command(options: &TokenOptions) -> anyhow::Result<Exit> {
    let tokens = Tokens::of(&options.state.folder()?);
    if options.list {
        list(&tokens.list()?, options.json)?;
    } else if let Some(id) = &options.revoke {
        let id: TokenId = id.parse().map_err(|error| Refusal::usage(format!("{error}")))?;
        tokens.revoke(&id)?;
        line(&format!("token {id} opens nothing any more"));
    } else {
        add(&tokens, options.json)?;
    }
    Ok(Exit::Done)
}

/// The secret goes to standard output and nowhere else.
fn add(tokens: &Tokens, as_json: bool) -> anyhow::Result<()> {
    let token = tokens.add()?;
    let told = if as_json {
        print_json(&json!({ "id": token.id.to_string(), "token": token.secret }))
    } else {
        writeln!(io::stdout(), "{}", token.secret).context("writing to standard output")
    };
    if let Err(unwritten) = told {
        // Nobody has seen it.
        tokens.revoke(&token.id)?;
        return Err(unwritten);
    }
    let id = token.id;
    line(&format!("this is token {id}; it is not shown again, `--revoke {id}` takes it away"));
    Ok(())
}

fn list(tokens: &[TokenFacts], as_json: bool) -> anyhow::Result<()> {
    if as_json {
        let rows: Vec<_> = tokens
            .iter()
            .map(|token| json!({ "id": token.id.to_string(), "created_ms": token.created.get() }))
            .collect();
        return print_json(&json!({ "tokens": rows }));
    }
    let mut text = String::from("ID        CREATED (UTC)\n");
    for token in tokens {
        text.push_str(&format!("{:<8}  {}\n", token.id, utc(token.created)));
    }
    io::stdout().write_all(text.as_bytes()).context("writing to standard output")
}

/// Date and time of the Gregorian calendar, by days since 1970 (the algorithm `civil_from_days` of
/// <https://howardhinnant.github.io/date_algorithms.html>).
fn utc(time: UnixMillis) -> String {
    let seconds = time.get() / 1000;
    let (days, of_day) = (seconds / 86_400 + 719_468, seconds % 86_400);
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    // Its years begin in March.
    let (month, carry) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    let year = year + era * 400 + carry;
    let (hour, minute, second) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_told_by_the_calendar() {
        let at = |seconds: u64| utc(UnixMillis::new(seconds * 1000).unwrap());
        assert_eq!(at(0), "1970-01-01 00:00:00");
        assert_eq!(at(951_782_400), "2000-02-29 00:00:00");
        assert_eq!(at(1_709_210_096), "2024-02-29 12:34:56");
        assert_eq!(at(4_102_444_799), "2099-12-31 23:59:59");
    }
}
