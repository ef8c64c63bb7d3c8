//! Compressed messages (RFC 7692), without context takeover: each message stands for itself, so one compressor and one
//! decompressor serve all connections of a thread, and a connection keeps nothing but what was agreed.

use std::fmt;

use miniz_oxide::MZFlush;
use miniz_oxide::deflate::core::CompressorOxide;
use miniz_oxide::deflate::stream::deflate;
use miniz_oxide::inflate::TINFLStatus;
use miniz_oxide::inflate::core::inflate_flags::{
    TINFL_FLAG_HAS_MORE_INPUT, TINFL_FLAG_STOP_ON_BLOCK_BOUNDARY, TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF,
};
use miniz_oxide::inflate::core::{DecompressorOxide, decompress};

use super::WsError;

/// What a sync flush ends with, and what is left out on the wire (RFC 7692 section 7.2.1).
const TAIL: [u8; 4] = [0, 0, 0xff, 0xff];

/// The same, and an empty final block behind it: what has been cut short does not end there.
const END: [u8; 6] = [0, 0, 0xff, 0xff, 3, 0];

/// A block may be a few bits that say nothing and cost microseconds, so that a megabyte of them would hold a worker for
/// seconds. Compressors make blocks of some thousand bytes, and small ones only where they are flushed.
const BLOCK_BYTES: usize = 128;
/// Blocks that a short message may have beyond that.
const MOST_BLOCKS: usize = 64;

/// How much is made room for at once while a message is inflated, bytes.
const STEP: usize = 16 << 10;

/// Compresses messages.
pub struct Deflater {
    state: Box<CompressorOxide>,
}

impl Default for Deflater {
    fn default() -> Self {
        // Level 1 leaves a tenth more of a typical JSON message than 6 does, at half the price or less.
        let flags = miniz_oxide::deflate::core::create_comp_flags_from_zip_params(1, -15, 0);
        Self { state: Box::new(CompressorOxide::new(flags)) }
    }
}

impl Deflater {
    /// Appends a message's compressed payload if it is smaller than the message; else `out` stays as it is, and the
    /// message is to be sent as it is. Returns whether it was appended.
    ///
    /// No distance in it is longer than the message, so any window of the message's size will do for the peer.
    pub fn deflate(&mut self, message: &[u8], out: &mut Vec<u8>) -> bool {
        let start = out.len();
        self.state.reset();
        // With no more room than the message takes, the compressor stops where it does not pay.
        out.resize(start + message.len(), 0);
        let room = out.get_mut(start..).unwrap_or_default();
        let done = deflate(&mut self.state, message, room, MZFlush::Sync);
        let made = room.get(..done.bytes_written).unwrap_or_default();
        let finished = done.status.is_ok() && done.bytes_consumed == message.len() && made.len() < message.len();
        let kept = made.strip_suffix(&TAIL).filter(|_| finished).map_or(0, <[u8]>::len);
        out.truncate(start + kept);
        kept > 0
    }
}

/// Inflates messages.
#[derive(Default)]
pub struct Inflater {
    state: Box<DecompressorOxide>,
}

impl Inflater {
    /// Appends a message of at most `most` bytes.
    ///
    /// It is inflated into one piece, so that no distance reaches beyond its own beginning: another connection's message
    /// cannot be asked for.
    ///
    /// # Errors
    /// [`WsError::TooLarge`] as soon as it would be larger, [`WsError::InvalidDeflate`] for anything that is no compressed
    /// message, or one of very many blocks. What was appended until then means nothing.
    pub fn inflate(&mut self, payload: &[u8], most: usize, out: &mut Vec<u8>) -> Result<(), WsError> {
        const FLAGS: u32 =
            TINFL_FLAG_HAS_MORE_INPUT | TINFL_FLAG_STOP_ON_BLOCK_BOUNDARY | TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF;
        if payload.is_empty() {
            return Ok(());
        }
        let start = out.len();
        let mut made = 0;
        let mut blocks = 0;
        self.state.init();
        for (part, is_end) in [(payload, false), (&END, true)] {
            let mut rest = part;
            loop {
                // One byte more than allowed tells that there is more.
                let room = (made + STEP.max(rest.len())).min(most.saturating_add(1));
                if out.len() < start + room {
                    out.resize(start + room, 0);
                }
                let message = out.get_mut(start..).unwrap_or_default();
                let (status, read, written) = decompress(&mut self.state, rest, message, made, FLAGS);
                rest = rest.get(read..).unwrap_or_default();
                made += written;
                if made > most {
                    return Err(WsError::TooLarge);
                }
                match status {
                    TINFLStatus::NeedsMoreInput if is_end => return Err(WsError::InvalidDeflate),
                    TINFLStatus::NeedsMoreInput => break,
                    TINFLStatus::HasMoreOutput => continue,
                    TINFLStatus::BlockBoundary => {}
                    // Blocks may follow a final one, from the next byte on (section 7.2.1).
                    TINFLStatus::Done => self.state.init(),
                    TINFLStatus::Failed
                    | TINFLStatus::FailedCannotMakeProgress
                    | TINFLStatus::BadParam
                    | TINFLStatus::Adler32Mismatch
                    | _ => return Err(WsError::InvalidDeflate),
                }
                blocks += 1;
                if blocks > MOST_BLOCKS + (payload.len() - rest.len().min(payload.len()) + made) / BLOCK_BYTES {
                    return Err(WsError::InvalidDeflate);
                }
                if status == TINFLStatus::Done && rest.is_empty() {
                    break;
                }
            }
        }
        out.truncate(start + made);
        Ok(())
    }
}

impl fmt::Debug for Deflater {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Deflater")
    }
}

impl fmt::Debug for Inflater {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Inflater")
    }
}
