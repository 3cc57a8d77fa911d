//! The NBD protocol of the client's side, without I/O.
