//! A crowd at the control socket: followers, idle connections and a flood of Health calls, as the user that starts it. Says in
//! one line of JSON what it got, and goes on until its input ends.

use anyhow::Result;
use clap::Parser;
use failsafe_proto::v1::{
    HealthRequest, WatchRequest, event_service_client::EventServiceClient, node_service_client::NodeServiceClient,
};
use hyper_util::rt::TokioIo;
use std::{
    io::Read,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::net::UnixStream;
use tonic::{
    Code, Status,
    transport::{Channel, Endpoint, Uri},
};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

/// An answer that is not there by then does not come: the machine may be busy with other tests.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Parser, Clone)]
struct Args {
    /// The control socket.
    #[arg(long)]
    socket: PathBuf,
    /// Connections that each follow events.
    #[arg(long, default_value_t = 0)]
    followers: usize,
    /// Followers that never read.
    #[arg(long, default_value_t = 0)]
    deaf: usize,
    /// Connections that say nothing.
    #[arg(long, default_value_t = 0)]
    idle: usize,
    /// Connections that ask for health without a pause.
    #[arg(long, default_value_t = 0)]
    floods: usize,
}

fn main() -> Result<()> {
    let args = Args::parse();
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(crowd(args))
}

async fn crowd(args: Args) -> Result<()> {
    let idle: Vec<UnixStream> = connect_idle(&args).await;
    let asked = Arc::new(AtomicU64::new(0));
    for _ in 0..args.floods {
        let (socket, asked) = (args.socket.clone(), asked.clone());
        tokio::spawn(async move { flood(&socket, &asked).await });
    }
    let (mut followers, mut refused, mut named, mut why) = (Vec::new(), 0, 0, String::new());
    for deaf in std::iter::repeat_n(false, args.followers).chain(std::iter::repeat_n(true, args.deaf)) {
        match tokio::time::timeout(PATIENCE, follow(&args.socket, deaf)).await {
            Ok(Ok(follower)) => followers.push(follower),
            Ok(Err(status)) => {
                refused += 1;
                // That of a connection is in the cause.
                why = format!("{status:?}");
                named += usize::from(why.contains("limit `"));
            }
            Err(_) => why = "no answer".to_owned(),
        }
    }
    // The floods have begun once a call was answered.
    let begun = async {
        while args.floods > 0 && asked.load(Ordering::Relaxed) == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    if tokio::time::timeout(PATIENCE, begun).await.is_err() {
        why = "no health call was answered".to_owned();
    }
    println!(
        "{}",
        serde_json::json!({ "following": followers.len(), "refused": refused, "named": named, "why": why, "idle": idle.len() })
    );
    let input = tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new()));
    let _ended = input.await?;
    // What the deaf would have read.
    for (mut events, deaf) in followers {
        if deaf {
            let end = loop {
                match tokio::time::timeout(PATIENCE, events.message()).await {
                    Ok(Ok(Some(_))) => {}
                    Ok(Ok(None)) => break "in order".to_owned(),
                    Ok(Err(status)) => break format!("{:?}: {}", status.code(), status.message()),
                    Err(_) => break "no answer".to_owned(),
                }
            };
            println!("{}", serde_json::json!({ "ended": end }));
        }
    }
    println!("{}", serde_json::json!({ "asked": asked.load(Ordering::Relaxed) }));
    drop(idle);
    Ok(())
}

async fn connect_idle(args: &Args) -> Vec<UnixStream> {
    let mut idle = Vec::new();
    for _ in 0..args.idle {
        if let Ok(stream) = UnixStream::connect(&args.socket).await {
            idle.push(stream);
        }
    }
    idle
}

type Following = (tonic::Streaming<failsafe_proto::v1::Record>, bool);

async fn follow(socket: &Path, deaf: bool) -> Result<Following, Status> {
    let channel = channel(socket).await?;
    let request = WatchRequest { from: 0, follow: true, ..Default::default() };
    let events = EventServiceClient::new(channel).max_decoding_message_size(16 << 20).watch(request).await?;
    Ok((events.into_inner(), deaf))
}

async fn flood(socket: &Path, asked: &AtomicU64) {
    loop {
        let Ok(channel) = channel(socket).await else {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let (mut node, mut health) = (NodeServiceClient::new(channel.clone()), HealthClient::new(channel));
        loop {
            let of_node = node.health(HealthRequest {}).await.map(|_| ());
            let of_server = health.check(HealthCheckRequest::default()).await.map(|_| ());
            asked.fetch_add(2, Ordering::Relaxed);
            let lost = |answer: &Result<(), Status>| answer.as_ref().is_err_and(|e| e.code() == Code::Unavailable);
            if lost(&of_node) || lost(&of_server) {
                tokio::time::sleep(Duration::from_millis(50)).await;
                break;
            }
        }
    }
}

async fn channel(socket: &Path) -> Result<Channel, Status> {
    let socket = socket.to_owned();
    let connect = move |_: Uri| {
        let socket = socket.clone();
        async move { UnixStream::connect(socket).await.map(TokioIo::new) }
    };
    // The least that HTTP/2 has, so that those who do not read are full soon.
    const WINDOW: u32 = 65_535;
    let endpoint = Endpoint::from_static("http://failsafed.invalid").initial_stream_window_size(WINDOW);
    let endpoint = endpoint.initial_connection_window_size(WINDOW);
    let connected = endpoint.connect_with_connector(tower::service_fn(connect)).await;
    connected.map_err(|error| Status::unavailable(format!("{error:?}")))
}
