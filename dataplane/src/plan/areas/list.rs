//! Lists of areas in any order, and their JSON.

use std::fmt;
use std::io::{BufReader, Read};

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};

use super::{Area, AreaError, AreaSet};

/// Reads a JSON array of areas into `builder`.
pub(super) fn read_json(source: impl Read, builder: AreaSetBuilder) -> Result<AreaSet, AreaError> {
    let mut json = serde_json::Deserializer::from_reader(BufReader::new(source));
    let mut list = ListSeed { builder, rejected: None };
    let read = (&mut list).deserialize(&mut json).and_then(|()| json.end());
    match (list.rejected, read) {
        (Some(error), _) => Err(error),
        (None, Err(error)) => Err(json_error(error)),
        (None, Ok(())) => Ok(list.builder.finish()),
    }
}

/// Collects areas in any order in at most twice `limit` areas of memory.
pub(super) struct AreaSetBuilder {
    areas: Vec<Area>,
    disk_size: u64,
    limit: usize,
    index: u64,
    sorted: bool,
}

impl AreaSetBuilder {
    pub(super) fn new(disk_size: u64, limit: usize) -> Self {
        Self { areas: Vec::new(), disk_size, limit: limit.max(1), index: 0, sorted: true }
    }

    pub(super) fn push(&mut self, area: Area) -> Result<(), AreaError> {
        let Area { start, length } = area;
        let inside = start.checked_add(length).is_some_and(|end| end <= self.disk_size);
        if !inside {
            let (index, disk_size) = (self.index, self.disk_size);
            return Err(AreaError::OutOfRange { index, start, length, disk_size });
        }
        self.index += 1;
        if length == 0 {
            return Ok(());
        }
        match self.areas.last_mut() {
            Some(last) if last.start <= start && start <= last.end() => {
                *last = Area::between(last.start, last.end().max(area.end()));
                return Ok(());
            }
            Some(last) => self.sorted &= last.start <= start,
            None => {}
        }
        if self.areas.len() >= self.limit.saturating_mul(2) {
            let full = std::mem::take(&mut self.areas);
            self.areas = Self::settled(full, self.sorted).coalesced_to(self.limit).areas;
            self.sorted = self.areas.last().is_none_or(|last| last.start <= start);
        }
        self.areas.push(area);
        Ok(())
    }

    pub(super) fn finish(self) -> AreaSet {
        Self::settled(self.areas, self.sorted).coalesced_to(self.limit)
    }

    fn settled(mut areas: Vec<Area>, sorted: bool) -> AreaSet {
        if !sorted {
            areas.sort_unstable_by_key(|area| area.start);
        }
        areas.dedup_by(|right, left| {
            let touches = right.start <= left.end();
            if touches {
                *left = Area::between(left.start, left.end().max(right.end()));
            }
            touches
        });
        AreaSet { areas }
    }
}

fn json_error(error: serde_json::Error) -> AreaError {
    let (line, column) = (error.line(), error.column());
    if error.is_io() {
        return AreaError::Read(error.into());
    }
    let text = error.to_string();
    let place = format!(" at line {line} column {column}");
    let problem = text.strip_suffix(&place).unwrap_or(&text).to_owned();
    AreaError::Json { line, column, problem }
}

/// Reads the array into the builder. An area that the builder rejects is kept here, because an
/// error of the JSON reader can carry text only.
struct ListSeed {
    builder: AreaSetBuilder,
    rejected: Option<AreaError>,
}

impl<'de> DeserializeSeed<'de> for &mut ListSeed {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<(), D::Error> {
        json.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for &mut ListSeed {
    type Value = ();

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("an array of areas")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        while let Some(area) = list.next_element_seed(AreaSeed)? {
            if let Err(error) = self.builder.push(area) {
                let text = error.to_string();
                self.rejected = Some(error);
                return Err(A::Error::custom(text));
            }
        }
        Ok(())
    }
}

/// Reads one area. Not derived: a derived one would also take `[1, 2]`, of which nobody can say
/// whether the 2 is a length or an end.
struct AreaSeed;

impl<'de> DeserializeSeed<'de> for AreaSeed {
    type Value = Area;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Area, D::Error> {
        json.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for AreaSeed {
    type Value = Area;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("an object with \"start\" and \"length\"")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Area, A::Error> {
        let (mut start, mut length) = (None, None);
        while let Some(field) = map.next_key::<Field>()? {
            let (slot, name) = match field {
                Field::Start => (&mut start, "start"),
                Field::Length => (&mut length, "length"),
            };
            if slot.replace(map.next_value::<u64>()?).is_some() {
                return Err(A::Error::duplicate_field(name));
            }
        }
        let start = start.ok_or_else(|| A::Error::missing_field("start"))?;
        let length = length.ok_or_else(|| A::Error::missing_field("length"))?;
        Ok(Area { start, length })
    }
}

#[derive(serde::Deserialize)]
#[serde(field_identifier, rename_all = "lowercase")]
enum Field {
    Start,
    Length,
}
