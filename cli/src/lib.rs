//! tcpcopy
