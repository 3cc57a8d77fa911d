//! Disks with many changed areas.

use blockferry_dataplane::Extent;
use blockferry_dataplane::plan::{Area, AreaSet};

use super::*;
use crate::backup::{Cancellation, Carrier, CarryError, Load, LoadFault};
use crate::hub::at_node::AtNode;

/// Of each disk.
const AREAS: u64 = 1 << 20;

#[test]
fn three_disks_with_a_million_areas_each_are_told_to_a_node() {
    let place = Place::new(AWAY);
    let _node = place.node(None, PATIENCE);
    let nodes = NodesAtWork {
        check: Arc::new(NodeCheck::of(place.hub.folder())),
        lines: Some(Arc::clone(&place.line) as _),
        deadline: AWAY,
        stall: PATIENCE,
    };
    let name = "rack2".parse().unwrap();
    let node = AtNode::new(&nodes, &name, JobId::new(), 1, false, Arc::new(Unheard)).unwrap();
    // Far into a disk, where their numbers are long.
    let area = |n: u64| Area::new((60 << 40) + (n << 17), 1 << 16);
    let areas = AreaSet::from_unsorted((0..AREAS).map(area), u64::MAX).unwrap();
    let nobody = || Endpoint::nbd("nbd://127.0.0.1:1/x".parse().unwrap());
    let load = |disk: usize| Load {
        disk: format!("disk{disk}").parse().unwrap(),
        source: nobody(),
        target: nobody(),
        size: 61 << 40,
        extent: Extent::Areas(areas.clone()),
        base: None,
        manifest: place.folder.path().join(format!("{disk}.manifest")),
    };
    let watch: Arc<dyn crate::backup::Watch> = Arc::new(Unheard);
    let started = node.start((0..3).map(load).collect(), &watch, &Cancellation::default());
    // They were taken, and nobody is there to be read.
    let ended = started.unwrap().end();
    assert!(matches!(ended, Err(CarryError::Load(_, LoadFault::AtNode { .. }))), "{ended:?}");
}

struct Unheard;

impl crate::backup::Watch for Unheard {}
