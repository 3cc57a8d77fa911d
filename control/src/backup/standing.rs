//! Whether a chain can be stood on: a delta on a damaged one would be a new point that is wrong from
//! the start.
//!
//! ```text
//!  what was found, and the lengths of the files       of all layers, opening nothing
//!  headers                                            of all layers, by one process
//!  tables (qemu-img check)                            of the newest, and of files that were written
//!                                                     since their tables were found right
//! ```
//!
//! The time of all this grows with the length of the chain by little: what takes a process for each
//! layer, which opens all below it, is done once for each.

use std::fs;
use std::path::Path;

use crate::catalog::{CheckedFile, Layer, LayerId, Points};
use crate::child::each;
use crate::image::{CheckVerdict, Image, ImageError, ImageInfo, ImageTool};
use crate::repository::{HeldLayer, Repository};

/// Layers whose tables are looked at each time: they have what was written last.
const ALWAYS_CHECKED: usize = 2;

/// Whether a chain can be stood on, and why not.
pub(super) fn stands(
    below: &HeldLayer,
    repository: &Repository,
    tool: &ImageTool,
) -> Result<(), String> {
    if let Some(why) = known_damage(below, repository) {
        return Err(why);
    }
    headers(below, repository.root(), tool)
        .and_then(|()| tables(below, repository, tool))
        .map_err(|why| format!("{why}; verify --all tells what that touches"))
}

/// What is known to be wrong with a chain before anything of it is opened.
fn known_damage(below: &HeldLayer, repository: &Repository) -> Option<String> {
    below.chain.iter().rev().find_map(|layer| {
        let of = format!("{} of point {}", layer.facts.path, layer.point);
        if let Some(damage) = &layer.damage {
            let says = &damage.says;
            return Some(format!(
                "{of} was found damaged: {says}; once that is mended, verify takes the mark off"
            ));
        }
        let why = repository.wrong_length(layer)?;
        Some(format!("{of} is damaged: {why}; verify --all tells what that touches"))
    })
}

fn headers(below: &HeldLayer, root: &Path, tool: &ImageTool) -> Result<(), String> {
    let path = |layer: &Layer| layer.facts.path.under(root);
    let read = Image::at(&below.image, tool.clone()).and_then(|image| image.chain_info());
    let read = match read {
        Ok(read) => read,
        Err(error) => {
            // Which of them it is: the lowest one, for those above it cannot be opened either.
            for layer in below.chain.iter().rev() {
                let info = Image::at(&path(layer), tool.clone()).and_then(|image| image.info());
                info.map_err(|error| of(layer, &cannot(&error)))?;
            }
            return Err(of(below.layer(), &cannot(&error)));
        }
    };
    let same =
        |one: &Path, other: &Path| fs::canonicalize(one).ok() == fs::canonicalize(other).ok();
    for (depth, layer) in below.chain.iter().enumerate() {
        match read.get(depth) {
            Some((file, info)) if same(file, &path(layer)) => fits(layer, info)?,
            Some((file, _)) => {
                let found = format!("is not what stands there, but {}", file.display());
                return Err(of(layer, &found));
            }
            None => return Err(of(layer, "is not stood on by the layer above it")),
        }
    }
    if read.len() > below.chain.len() {
        let full = below.chain.last().unwrap_or(below.layer());
        return Err(of(full, "stands on another image, and is a full"));
    }
    Ok(())
}

fn fits(layer: &Layer, info: &ImageInfo) -> Result<(), String> {
    if info.corrupt {
        return Err(of(layer, "is marked as corrupt"));
    }
    let (has, size) = (info.virtual_bytes, layer.facts.size_bytes);
    if !info.is_of(size) {
        return Err(of(layer, &format!("is the image of {has} bytes, and its disk has {size}")));
    }
    Ok(())
}

fn tables(below: &HeldLayer, repository: &Repository, tool: &ImageTool) -> Result<(), String> {
    let mut due: Vec<(&Layer, Option<CheckedFile>)> = Vec::new();
    for (depth, layer) in below.chain.iter().enumerate() {
        let (file, is_known) = repository.checked_before(layer);
        if depth < ALWAYS_CHECKED || !is_known {
            due.push((layer, file));
        }
    }
    // The lowest one is to blame: those above it may not be readable for its sake.
    due.reverse();
    let checked = each(&due, |(layer, file)| {
        whole(&layer.facts.path.under(repository.root()), tool)
            .map_err(|why| of(layer, &why))
            .map(|()| (layer.facts.id, *file))
    })?;
    let known = |layer: &LayerId| {
        below.chain.iter().find(|known| known.facts.id == *layer).and_then(|it| it.facts.checked)
    };
    let new = checked.into_iter().filter_map(|(layer, file)| {
        file.filter(|file| known(&layer) != Some(*file)).map(|file| (layer, file))
    });
    // What cannot be noted now is checked again by the next one.
    let _ = repository.catalog().note_checked(&new.collect::<Vec<_>>());
    Ok(())
}

fn whole(path: &Path, tool: &ImageTool) -> Result<(), String> {
    let checked = Image::at(path, tool.clone()).and_then(|image| image.check());
    match checked.map_err(|error| cannot(&error))?.verdict {
        CheckVerdict::Clean | CheckVerdict::Leaks { .. } => Ok(()),
        CheckVerdict::Corrupt { corruptions, .. } => Err(format!("has {corruptions} faults")),
        CheckVerdict::Incomplete { errors } => Err(format!("cannot be read in {errors} places")),
    }
}

fn of(layer: &Layer, what: &str) -> String {
    format!("{} of point {} {what}", layer.facts.path, layer.point)
}

fn cannot(error: &ImageError) -> String {
    format!("cannot be read: {error}")
}
