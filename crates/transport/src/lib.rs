//! Byte streams as one type: TCP, Unix and TLS, and what comes before the first byte of HTTP.
