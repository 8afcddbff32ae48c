//! `log witness serve`: the witness as an HTTP server (c2sp.org/tlog-witness). One method, `POST /add-checkpoint`: its body is what
//! `log consistency -o` writes. It speaks plain HTTP: TLS is the matter of a proxy in front of it.
//!
//! Anybody may connect: the signature of the log in the request decides. So connections, bytes and time are bounded.

mod places;

use super::{super::keys, NotDone, decide};
use crate::{
    exit::{Exit, Fail},
    render::{clean, time},
};
use failsafe_tlog::{consistency_file::MAX_BYTES, witness::Refusal};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Body, Bytes},
    header::{ALLOW, CONTENT_TYPE, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use places::{Closed, Places};
use std::{
    convert::Infallible,
    io::{self, Write as _},
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{
    net::{TcpListener, TcpStream},
    runtime::Runtime,
    signal::unix::{SignalKind, signal},
    sync::Mutex,
};

/// Time for the whole life of a connection.
const PATIENCE: Duration = Duration::from_secs(30);
/// Largest head of a request, in bytes.
const HEAD: usize = 8 << 10;
/// Pause after a connection that cannot be accepted, for example because there is no descriptor left.
const PAUSE: Duration = Duration::from_millis(200);
/// How long a stop waits for the disk.
const STOP: Duration = Duration::from_secs(2);
/// Type of the body that names the tree that was cosigned last, by the specification.
const SIZE: &str = "text/x.tlog.size";

struct Server {
    dir: PathBuf,
    keys: PathBuf,
    /// One request is judged at a time.
    turn: Arc<Mutex<()>>,
    zone: jiff::tz::TimeZone,
}

/// Serves until SIGTERM or SIGINT.
pub(super) fn serve(dir: &Path, keys: &Path, listen: SocketAddr, zone: &jiff::tz::TimeZone) -> Result<Exit, Fail> {
    // What cannot work is reported before anybody is served.
    keys::named(keys)?;
    super::folder::WitnessSigner::read(dir)?;
    let (dir, keys) = (dir.to_owned(), keys.to_owned());
    let server = Arc::new(Server { dir, keys, turn: Arc::default(), zone: zone.clone() });
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .map_err(|error| Fail::because("cannot start the server".to_owned(), &error))?;
    let served = runtime.block_on(async {
        let cannot = |error: io::Error| Fail::because(format!("cannot listen at {listen}"), &error);
        let listener = TcpListener::bind(listen).await.map_err(cannot)?;
        let address = listener.local_addr().map_err(cannot)?;
        let mut ends =
            [signal(SignalKind::terminate()).map_err(cannot)?, signal(SignalKind::interrupt()).map_err(cannot)?];
        server.log(&format!("the witness listens at http://{address}/add-checkpoint"));
        let [terminate, interrupt] = &mut ends;
        tokio::select! {
            () = accept(listener, server) => {}
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        Ok(Exit::Done)
    });
    stop(runtime);
    served
}

/// A request that is judged is finished, unless the disk hangs. What is not on the disk was not answered.
fn stop(runtime: Runtime) {
    runtime.shutdown_timeout(STOP);
}

async fn accept(listener: TcpListener, server: Arc<Server>) {
    let places = Arc::new(Places::default());
    let mut closed = Closed::default();
    loop {
        let (stream, from) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                server.log(&format!("a connection cannot be accepted: {error}"));
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        let Some(place) = places.take(from.ip()) else {
            if let Some(text) = closed.count(from.ip(), Instant::now()) {
                server.log(&text);
            }
            continue;
        };
        let server = server.clone();
        tokio::spawn(async move {
            let _counted = place;
            // A connection that takes longer is closed.
            let _ = tokio::time::timeout(PATIENCE, server.serve_one(stream, from)).await;
        });
    }
}

impl Server {
    async fn serve_one(self: Arc<Server>, stream: TcpStream, from: SocketAddr) {
        let service = service_fn(|request| {
            let server = self.clone();
            async move { Ok::<_, Infallible>(server.answer(request, from).await) }
        });
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new()).header_read_timeout(PATIENCE).max_buf_size(HEAD).keep_alive(false);
        // Who leaves early has no answer.
        let _ = http.serve_connection(TokioIo::new(stream), service).await;
    }

    async fn answer<B>(self: Arc<Server>, request: Request<B>, from: SocketAddr) -> Response<Full<Bytes>>
    where
        B: Body,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        if request.uri().path() != "/add-checkpoint" {
            return plain(StatusCode::NOT_FOUND, "not found: a request is a POST to /add-checkpoint");
        }
        if request.method() != Method::POST {
            let mut answer = plain(StatusCode::METHOD_NOT_ALLOWED, "expected POST");
            answer.headers_mut().insert(ALLOW, HeaderValue::from_static("POST"));
            return answer;
        }
        let body = match Limited::new(request.into_body(), MAX_BYTES).collect().await {
            Ok(body) => body.to_bytes(),
            Err(error) if error.is::<LengthLimitError>() => {
                return plain(StatusCode::PAYLOAD_TOO_LARGE, &format!("the limit of a request is {MAX_BYTES} bytes"));
            }
            Err(_) => return plain(StatusCode::BAD_REQUEST, "the request ended early"),
        };
        let turn = self.turn.clone().lock_owned().await;
        let server = self.clone();
        let judged = tokio::task::spawn_blocking(move || {
            // Held by the work, which goes on when its connection does not: on a disk that hangs, one request hangs.
            let _turn = turn;
            server.judge(&body, from)
        });
        match judged.await {
            Ok(answer) => answer,
            Err(_) => plain(StatusCode::INTERNAL_SERVER_ERROR, "the witness failed"),
        }
    }

    fn judge(&self, body: &[u8], from: SocketAddr) -> Response<Full<Bytes>> {
        // The list is read for each request, so that a node can be added without a restart.
        let known = keys::named(&self.keys).map_err(NotDone::Failed);
        match known.and_then(|known| decide(&self.dir, &known.keys, body)) {
            Ok(done) => {
                let checkpoint = &done.cosigned.checkpoint;
                self.log(&format!("{from}: {}, {} entries: cosigned", clean(&checkpoint.origin), checkpoint.size));
                let mut answer = Response::new(Full::from(done.cosigned.line));
                answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
                answer
            }
            Err(NotDone::Refused { refusal, .. }) => {
                let status = StatusCode::from_u16(refusal.status()).unwrap_or(StatusCode::BAD_REQUEST);
                self.log(&format!("{from}: refused ({}): {}", status.as_u16(), clean(&refusal.to_string())));
                if let Refusal::Conflict { cosigned, .. } = *refusal {
                    let mut answer = plain(status, &cosigned.to_string());
                    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(SIZE));
                    return answer;
                }
                plain(status, &refusal.to_string())
            }
            Err(NotDone::Failed(fail)) => {
                // The reason is for who runs the witness.
                self.log(&format!("{from}: NOT COSIGNED: {fail}"));
                plain(StatusCode::SERVICE_UNAVAILABLE, "the witness cannot cosign now")
            }
        }
    }

    fn log(&self, text: &str) {
        // A log that cannot be written (a full disk) stops no cosignature.
        let _ = writeln!(io::stderr(), "{} {text}", time::wall(i128::from(time::now()), &self.zone));
    }
}

fn plain(status: StatusCode, text: &str) -> Response<Full<Bytes>> {
    let mut answer = Response::new(Full::from(format!("{text}\n")));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    answer
}

#[cfg(test)]
mod tests;
