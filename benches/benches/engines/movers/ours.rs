//! Our own mover, on one thread, with requests as everybody else has them.

use std::io;
use std::net::SocketAddr;

use blockferry_dataplane::{
    Endpoint, EngineChoice, Lane, LaneSettings, Mover, MoverSettings, PayloadChoice,
};

use crate::lane::{Job, WINDOW, broken};

pub(super) fn run(job: &Job, engine: EngineChoice, payload: PayloadChoice) -> io::Result<()> {
    let settings = LaneSettings {
        request_bytes: Some(u32::try_from(job.request).map_err(io::Error::other)?),
        requests: u16::try_from(WINDOW).map_err(io::Error::other)?,
        in_flight_bytes: WINDOW * job.request as u64,
        payload,
        // The others do not look at what they move.
        sparse_bytes: Some(0),
        ..LaneSettings::default()
    };
    let lane = Lane::new(endpoint(job.source)?, endpoint(job.target)?).with_settings(settings);
    let mover = Mover::new(MoverSettings { engine, threads: Some(1), ..MoverSettings::default() });
    let report = mover.start(vec![lane; job.lanes]).map_err(io::Error::other)?.wait();
    if report.totals().sent != job.disk() * job.lanes as u64 {
        return Err(broken("not all was sent"));
    }
    for lane in report.lanes {
        lane.outcome.map_err(io::Error::other)?;
    }
    Ok(())
}

fn endpoint(address: SocketAddr) -> io::Result<Endpoint> {
    let uri = format!("nbd://{address}").parse().map_err(io::Error::other)?;
    Ok(Endpoint::nbd(uri))
}
