//! What the choice of a server depends on beside the client's address.

/// What a request says about which server it wants.
#[derive(Clone, Debug, Default)]
pub(crate) struct Choice {
    /// The key of a hash.
    pub(crate) key: Box<[u8]>,
    /// A value that sticks.
    pub(crate) stick: Box<[u8]>,
}
