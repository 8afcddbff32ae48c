//! OTLP: each TCP connection of a process of the run is carried over a connection of its own to the gateway.

use super::{Losses, Lost, PAUSE};
use crate::commands::scrape::owner;
use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
};
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream, UnixStream},
    sync::Semaphore,
};

/// Connections at once; further ones wait. The gateway closes those that are idle.
const CONNECTIONS: usize = 64;

/// Carries connections for ever.
pub(super) async fn accept(listener: TcpListener, here: SocketAddr, gateway: PathBuf) {
    let (places, losses, gateway) =
        (Arc::new(Semaphore::new(CONNECTIONS)), Arc::new(Losses::default()), Arc::new(gateway));
    while let Ok(place) = places.clone().acquire_owned().await {
        let Ok((client, peer)) = listener.accept().await else {
            tokio::time::sleep(PAUSE).await;
            continue;
        };
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
    // Either end may close at any time.
    let _carried = copy_bidirectional(&mut client, &mut to).await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

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
    async fn without_a_gateway_the_connection_is_closed() {
        let dir = tempfile::tempdir().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let here = listener.local_addr().unwrap();
        tokio::spawn(accept(listener, here, dir.path().join("none")));
        let mut client = TcpStream::connect(here).await.unwrap();
        assert_eq!(client.read(&mut [0; 1]).await.unwrap_or(0), 0);
    }
}
