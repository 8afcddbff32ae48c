//! OTLP: each TCP connection of a process of the run is carried over a connection of its own to the gateway.

use super::{Losses, Lost, PAUSE};
use crate::commands::scrape::owner;
use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio::{
    io::{AsyncWriteExt, copy, sink},
    net::{TcpListener, TcpStream, UnixStream},
    sync::Semaphore,
    time::timeout,
};

/// Connections at once; further ones wait. The gateway closes those that are idle.
const CONNECTIONS: usize = 64;
/// How long a client may take to close when the gateway has closed.
const LINGER: Duration = Duration::from_secs(2);

/// Carries connections for ever.
pub(super) async fn accept(listener: TcpListener, here: SocketAddr, gateway: PathBuf) {
    let (places, losses, gateway) =
        (Arc::new(Semaphore::new(CONNECTIONS)), Arc::new(Losses::default()), Arc::new(gateway));
    loop {
        let Ok((client, peer)) = listener.accept().await else {
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        if places.available_permits() == 0 {
            losses.report(Lost::Full, &format!("{CONNECTIONS} connections are open: further ones wait"));
        }
        let Ok(place) = places.clone().acquire_owned().await else { return };
        let (losses, gateway) = (losses.clone(), gateway.clone());
        tokio::spawn(async move {
            if let Err((why, text)) = carry(client, peer, here, &gateway).await {
                losses.report(why, &text);
            }
            drop(place);
        });
    }
}

async fn carry(
    mut client: TcpStream,
    peer: SocketAddr,
    here: SocketAddr,
    gateway: &Path,
) -> Result<(), (Lost, String)> {
    let own = tokio::task::spawn_blocking(move || owner::connected(peer, here)).await;
    let own = own.unwrap_or_else(|error| Err(error.to_string()));
    match own {
        Ok(true) => {}
        Ok(false) => {
            return Err((
                Lost::Stranger,
                format!("a connection from {peer} is closed: it is not of a process of this run"),
            ));
        }
        Err(why) => return Err((Lost::Tables, format!("a connection from {peer} is closed: {why}"))),
    }
    let mut to = UnixStream::connect(gateway)
        .await
        .map_err(|error| (Lost::Gateway, format!("cannot connect to {}: {error}", gateway.display())))?;
    exchange(&mut client, &mut to).await;
    Ok(())
}

/// Carries bytes both ways until the gateway closes. Then the client has a moment to read the end: one that keeps the connection for
/// later use would hold its place for ever.
async fn exchange(client: &mut TcpStream, gateway: &mut UnixStream) {
    let (mut from_client, mut to_client) = client.split();
    let (mut from_gateway, mut to_gateway) = gateway.split();
    let answers = async {
        let _closed = copy(&mut from_gateway, &mut to_client).await;
        let _closed = to_client.shutdown().await;
    };
    let requests = async {
        let _closed = copy(&mut from_client, &mut to_gateway).await;
        let _closed = to_gateway.shutdown().await;
        // The answer may still come.
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = answers => {}
        () = requests => {}
    }
    // Closed with bytes that are not read, the answer could be lost.
    let _closed = timeout(LINGER, copy(&mut from_client, &mut sink())).await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncReadExt;

    #[tokio::test]
    async fn bytes_of_a_process_of_the_run_are_carried_both_ways() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("otlp.sock");
        let gateway = tokio::net::UnixListener::bind(&path).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let here = listener.local_addr().unwrap();
        tokio::spawn(accept(listener, here, path));
        let mut client = TcpStream::connect(here).await.unwrap();
        client.write_all(b"request").await.unwrap();
        let (mut at_gateway, _) = gateway.accept().await.unwrap();
        let mut got = [0; 7];
        at_gateway.read_exact(&mut got).await.unwrap();
        assert_eq!(&got, b"request");
        at_gateway.write_all(b"answer").await.unwrap();
        drop(at_gateway);
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        assert_eq!(answer, "answer");
    }

    #[tokio::test]
    async fn a_client_that_does_not_close_gives_its_place_back_when_the_gateway_closes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("otlp.sock");
        let gateway = tokio::net::UnixListener::bind(&path).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let here = listener.local_addr().unwrap();
        tokio::spawn(accept(listener, here, path));
        let mut kept = Vec::new();
        for _ in 0..CONNECTIONS {
            let client = TcpStream::connect(here).await.unwrap();
            let (at_gateway, _) = gateway.accept().await.unwrap();
            kept.push((client, at_gateway));
        }
        let _further = TcpStream::connect(here).await.unwrap();
        let (_client, at_gateway) = kept.swap_remove(0);
        drop(at_gateway);
        gateway.accept().await.unwrap();
    }

    #[tokio::test]
    async fn without_a_gateway_the_connection_is_closed() {
        let dir = tempfile::tempdir().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let here = listener.local_addr().unwrap();
        tokio::spawn(accept(listener, here, dir.path().join("none")));
        let mut client = TcpStream::connect(here).await.unwrap();
        assert_eq!(client.read(&mut [0; 1]).await.unwrap_or(0), 0);
    }
}
