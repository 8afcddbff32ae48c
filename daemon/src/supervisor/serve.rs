//! The API: ordinary users on a thread of their own, administrators on the main thread until the daemon stops.

use super::threads::Threads;
use crate::{
    api::{self, Context},
    causes::chain,
    systemd,
};
use std::sync::Arc;
use tokio::signal::unix::{SignalKind, signal};

/// Serves ordinary users, on a thread of its own. What is sent ends it.
pub(super) fn serve_ordinary(
    context: Arc<Context>,
    threads: &mut Threads,
) -> anyhow::Result<tokio::sync::oneshot::Sender<()>> {
    let runtime = api::event_loop()?;
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    threads.spawn("api", move || {
        runtime.block_on(async {
            tokio::select! {
                served = api::serve(context, false) => {
                    if let Err(error) = served {
                        tracing::error!(error = chain(&error), "the lane of ordinary users ended");
                    }
                }
                _ = stopped => {}
            }
        });
        runtime.shutdown_background();
    })?;
    Ok(stop)
}

/// Serves root and the administrators' group on this thread, which nobody else can keep busy, until a signal or the end of a critical
/// thread. The inner error is why the daemon stops.
pub(super) fn serve_until_stop(
    context: &Arc<Context>,
    any_ended: &mut tokio::sync::mpsc::UnboundedReceiver<&'static str>,
) -> anyhow::Result<anyhow::Result<()>> {
    let runtime = api::event_loop()?;
    let served = runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        systemd::ready();
        tracing::info!(socket = %context.config.socket.display(), "failsafed is ready");
        // Streams that follow the log would keep a graceful shutdown waiting for ever: the server is dropped instead.
        tokio::select! {
            served = api::serve(context.clone(), true) => served.map_err(anyhow::Error::from),
            _ = terminate.recv() => Ok(()),
            _ = interrupt.recv() => Ok(()),
            name = any_ended.recv() => match name {
                Some(name) => Err(anyhow::anyhow!("the {name} thread ended")),
                None => Ok(()),
            },
        }
    });
    runtime.shutdown_background();
    Ok(served)
}
