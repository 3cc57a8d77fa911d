//! `blockferry hub enroll`.

use std::io::{self, Write};

use anyhow::Context as _;
use blockferry_control::hub::{NodeFacts, Nodes, host_key};
use serde_json::json;

use super::options::EnrollOptions;
use crate::exit::{Exit, Refusal};
use crate::output::{line, print_json, rfc3339, table};

/// `blockferry hub enroll`.
///
/// # Errors
/// What kept it from being done, in one line.
pub(super) fn command(options: &EnrollOptions) -> anyhow::Result<Exit> {
    let folder = options.state.folder()?;
    let nodes = Nodes::of(&folder);
    if options.list {
        list(&nodes.list()?, options.json)?;
    } else if let Some(name) = &options.remove {
        nodes.remove(name)?;
        line(&format!("node {name} reaches nothing any more"));
    } else if let Some(name) = &options.node {
        if options.expires.is_zero() {
            return Err(Refusal::usage("--expires 0s: the code would be void before it is read"));
        }
        let hub = host_key(&folder)?.public();
        let code = nodes.invite(name, options.expires, &hub)?;
        let told = if options.json {
            print_json(&json!({
                "node": name.as_str(),
                "code": code.to_string(),
                "hub_key": hub.openssh(),
                "hub_fingerprint": hub.fingerprint(),
            }))
        } else {
            // The secret goes to standard output and nowhere else.
            writeln!(io::stdout(), "{code}").context("writing to standard output")
        };
        if let Err(unwritten) = told {
            // Nobody has seen it.
            nodes.withdraw(name)?;
            return Err(unwritten);
        }
        line(&format!(
            "on the node, within {:?}: blockferry node enroll --hub ssh://HOST:PORT, with the \
             address that `hub serve --tunnel` listens on, and the code on its standard input; \
             this hub's key is {}",
            options.expires,
            hub.fingerprint()
        ));
    }
    Ok(Exit::Done)
}

fn list(nodes: &[NodeFacts], as_json: bool) -> anyhow::Result<()> {
    if as_json {
        let rows: Vec<_> = nodes
            .iter()
            .map(|node| {
                json!({
                    "node": node.name.as_str(),
                    "fingerprint": node.fingerprint,
                    "enrolled_ms": node.enrolled.get(),
                })
            })
            .collect();
        return print_json(&json!({ "nodes": rows }));
    }
    let rows = nodes
        .iter()
        .map(|node| vec![node.name.to_string(), rfc3339(node.enrolled), node.fingerprint.clone()]);
    writeln!(io::stdout(), "{}", table(&["node", "enrolled", "key"], rows))
        .context("writing to standard output")
}
