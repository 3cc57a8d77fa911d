//! Addresses, answers, known hosts and waits. What passes through a tunnel is tested with a real sshd, in
//! `tests/copy_tunnel*.rs` of the workspace.

mod addresses;
mod answers;
mod channels;
mod local_ports;
mod service;
mod trust;
mod waits;
