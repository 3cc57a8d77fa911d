//! `blockferry hub enroll`.

use std::io::{self, Write};

use anyhow::Context as _;
use blockferry_control::hub::{NodeError, NodeFacts, NodeName, NodeWay, Nodes, host_key};
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
        let facts = nodes.list()?.into_iter().find(|facts| facts.name == *name);
        nodes.remove(name)?;
        line(&match facts.map(|facts| facts.way) {
            Some(NodeWay::Sshd { .. }) => format!(
                "node {name} gets no job any more; what its key opens is for sshd to say: take the \
                 key's line out of authorized_keys, and end the connections that it has"
            ),
            _ => format!("node {name} reaches nothing any more"),
        });
    } else if let (Some(name), Some(port)) = (&options.node, options.sshd_port) {
        behind_sshd(&nodes, name, port, options.json)?;
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

/// A node that an sshd knows.
fn behind_sshd(nodes: &Nodes, name: &NodeName, port: u16, as_json: bool) -> anyhow::Result<()> {
    let token = nodes.add_behind_sshd(name, port).map_err(|error| match error {
        NodeError::PortTaken { .. } | NodeError::PortOfHub(_) => Refusal::usage(error.to_string()),
        other => other.into(),
    })?;
    let told = if as_json {
        print_json(&json!({ "node": name.as_str(), "sshd_port": port, "token": token }))
    } else {
        // The secret goes to standard output and nowhere else.
        writeln!(io::stdout(), "{token}").context("writing to standard output")
    };
    if let Err(unwritten) = told {
        // Nobody has seen it.
        nodes.remove(name)?;
        return Err(unwritten);
    }
    line(&format!(
        "on the node, with this token in a file that only its user can read: blockferry node serve \
         --tunnel ssh://USER@HOST --api-port {port} --token-file FILE; here, the lines of \
         scripts/sshd-lines NODE.pub --node-port {port}"
    ));
    Ok(())
}

fn list(nodes: &[NodeFacts], as_json: bool) -> anyhow::Result<()> {
    if as_json {
        let rows: Vec<_> = nodes
            .iter()
            .map(|node| {
                let mut row = json!({
                    "node": node.name.as_str(),
                    "enrolled_ms": node.enrolled.get(),
                });
                match &node.way {
                    NodeWay::Key { fingerprint } => row["fingerprint"] = json!(fingerprint),
                    NodeWay::Sshd { port } => row["sshd_port"] = json!(port),
                }
                row
            })
            .collect();
        return print_json(&json!({ "nodes": rows }));
    }
    let rows = nodes.iter().map(|node| {
        let way = match &node.way {
            NodeWay::Key { fingerprint } => fingerprint.clone(),
            NodeWay::Sshd { port } => format!("through sshd, port {port}"),
        };
        vec![node.name.to_string(), rfc3339(node.enrolled), way]
    });
    writeln!(io::stdout(), "{}", table(&["node", "enrolled", "key"], rows))
        .context("writing to standard output")
}
