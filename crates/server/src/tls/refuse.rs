use std::time::Duration;

use tidegate_transport::Socket;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;

/// As nginx answers (its status 497), in words that say what to do.
const PLAIN_HTTP: &[u8] = b"HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain; charset=utf-8\r\n\
    content-length: 67\r\nconnection: close\r\n\r\n\
    This port speaks TLS, the request came without it. Use https://...\n";

/// How long the client may take to read it.
const PATIENCE: Duration = Duration::from_secs(2);
/// Of the request that is read, to be thrown away.
const MOST: u64 = 64 * 1024;

/// Answers a request that came without TLS.
pub(super) async fn plain_http(mut socket: Socket) {
    let answer = async {
        socket.write_all(PLAIN_HTTP).await?;
        socket.shutdown().await?;
        // What is not read would become a reset, which can take the answer with it.
        let mut rest = (&mut socket).take(MOST);
        let mut buffer = [0; 512];
        while rest.read(&mut buffer).await? > 0 {}
        Ok::<_, std::io::Error>(())
    };
    // It was answered or it was not.
    let _ = timeout(PATIENCE, answer).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_is_as_long_as_it_says() {
        let text = std::str::from_utf8(PLAIN_HTTP).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("content-length: {}\r\n", body.len())), "{}", body.len());
    }
}
