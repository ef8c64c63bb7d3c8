//! One worker around the forwarder and nothing else, to measure the data path beside other proxies:
//! `worker LISTEN UPSTREAM`, for instance `worker 127.0.0.1:9000 127.0.0.1:9001`. Prints its address when it serves.
#![allow(clippy::unwrap_used, reason = "a measuring tool: its errors are for the terminal")]

use std::convert::Infallible;
use std::io::Write as _;
use std::rc::Rc;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tidegate_metrics::Metrics;
use tidegate_proxy::{
    Exchange, Forwarder, Guarded, ServerSettings, Upstream, UpstreamSettings, check_framing, error_response,
};
use tidegate_transport::Transport;
use tidegate_types::{ErrorCode, Phase};
use tokio::net::TcpListener;
use tokio::sync::watch;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let listen = arguments.next().unwrap_or_else(|| "127.0.0.1:0".to_owned());
    let address = arguments.next().expect("usage: worker LISTEN UPSTREAM");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, serve(listen, address));
}

async fn serve(listen: String, address: String) {
    let metrics = Metrics::new();
    let (_phase, watched) = watch::channel(Phase::Serving);
    let forwarder = Forwarder::new(watched);
    let servers = vec![ServerSettings::at(address)];
    let upstream = Upstream::new(UpstreamSettings { name: "backend".into(), servers, ..Default::default() }, &metrics);
    let route = metrics.route("all");
    let listener = TcpListener::bind(listen).await.unwrap();
    println!("{}", listener.local_addr().unwrap());
    let _ = std::io::stdout().flush();
    let mut builder = http1::Builder::new();
    builder.max_buf_size(64 * 1024).pipeline_flush(true);
    loop {
        let Ok((stream, client)) = listener.accept().await else { continue };
        let _ = stream.set_nodelay(true);
        let worker = Rc::new((forwarder.clone(), upstream.clone(), route.clone()));
        let service = service_fn(move |request| {
            let worker = worker.clone();
            async move {
                let (forwarder, upstream, route) = &*worker;
                if let Err(ambiguity) = check_framing(&request) {
                    return Ok(error_response(ErrorCode::BadRequest, ambiguity.message(), "0"));
                }
                let request_id = "0123456789abcdef0123456789abcdef".into();
                let exchange = Exchange::new(request_id, client, "http", route.clone(), Box::new(|_| {}));
                Ok::<_, Infallible>(forwarder.forward(request, upstream, exchange).await)
            }
        });
        let connection =
            builder.serve_connection(TokioIo::new(Guarded::new(Transport::from(stream))), service).with_upgrades();
        tokio::task::spawn_local(async move {
            let _ = connection.await;
        });
    }
}
