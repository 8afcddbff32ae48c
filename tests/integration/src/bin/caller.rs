//! A client of the control socket that does what honest ones do not: it keeps its connection while it becomes something else, passes it
//! on, goes away in the middle of a request, or becomes another program with a request under way.
//!
//! ```text
//! caller SOCKET             connects at once, then: a line of standard input is a command, its answer is a line
//! caller --inherited CMD    sends one command on the connection that is its standard input
//! ```
//!
//! Commands: `entries FROM LIMIT` (indices, `next` and `end` of a page), `prove ENTRY`, `checkpoint`, `extends` (the latest checkpoint
//! itself), `list`, `health`, `cordon`, `start NAME`, `control RUN freeze|thaw|kill`, `abandon MICROSECONDS CMD` (drops the request after that
//! time), `post CMD` (sends it and waits for no answer), `pass CGROUP CMD` (a child in that cgroup sends it on this connection),
//! `hold` (a child holds this connection open), `become PROGRAM` (executes it, with the connection open).

use anyhow::{Context, Result, bail};
use failsafe_proto::v1;
use hyper_util::rt::TokioIo;
use std::{
    io::{BufRead, Write, stdin, stdout},
    os::{
        fd::{AsFd, OwnedFd},
        unix::{net::UnixStream, process::CommandExt},
    },
    process::{Command, Stdio},
    sync::Mutex,
    time::Duration,
};
use tonic::{
    Status,
    transport::{Channel, Endpoint},
};

const POLICY: &str = "[policy]\nname = \"plain\"\nowner = \"tests\"\n";

fn main() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut args = std::env::args().skip(1);
    let first = args.next().context("no socket")?;
    if first == "--inherited" {
        let inherited = UnixStream::from(stdin().as_fd().try_clone_to_owned()?);
        let mut client = Client { stream: inherited, channel: None };
        let words: Vec<String> = args.collect();
        println!("{}", runtime.block_on(client.answer(&words.join(" ")))?);
        return Ok(());
    }
    let mut client = Client { stream: UnixStream::connect(first)?, channel: None };
    for line in stdin().lock().lines() {
        let answer = runtime.block_on(client.answer(&line?));
        println!("{}", answer.unwrap_or_else(|error| format!("{error:#}").replace('\n', " ")));
        stdout().flush()?;
    }
    Ok(())
}

struct Client {
    stream: UnixStream,
    channel: Option<Channel>,
}

impl Client {
    async fn answer(&mut self, line: &str) -> Result<String> {
        let (command, rest) = line.split_once(' ').unwrap_or((line, ""));
        match command {
            "abandon" => {
                let (after, rest) = rest.split_once(' ').context("abandon MICROSECONDS CMD")?;
                let after = Duration::from_micros(after.parse()?);
                match tokio::time::timeout(after, self.request(rest)).await {
                    Ok(answer) => answer,
                    Err(_) => {
                        // Time for the connection's task to send the cancellation. The daemon has to cope with a caller
                        // that is killed before it does, too.
                        tokio::time::sleep(Duration::from_millis(1)).await;
                        Ok("abandoned".into())
                    }
                }
            }
            "post" => match tokio::time::timeout(Duration::from_secs(1), self.request(rest)).await {
                Ok(answer) => answer,
                Err(_) => Ok("posted".into()),
            },
            "pass" => {
                let (cgroup, rest) = rest.split_once(' ').context("pass CGROUP CMD")?;
                let script = format!("echo $$ > '{cgroup}/cgroup.procs' && exec \"$0\" --inherited \"$@\"");
                let mut child = Command::new("sh");
                child.arg("-c").arg(script).arg(std::env::current_exe()?).args(rest.split(' '));
                let done = child.stdin(self.inheritable()?).output()?;
                let answer = String::from_utf8_lossy(&done.stdout).trim().to_owned();
                Ok(if answer.is_empty() { String::from_utf8_lossy(&done.stderr).replace('\n', " ") } else { answer })
            }
            "hold" => {
                let child =
                    Command::new("sleep").arg("600").stdin(self.inheritable()?).stdout(Stdio::null()).spawn()?;
                Ok(child.id().to_string())
            }
            "become" => {
                let mut words = rest.split(' ');
                let program = words.next().context("become PROGRAM")?;
                bail!(Command::new(program).args(words).stdin(self.inheritable()?).exec())
            }
            _ => self.request(line).await,
        }
    }

    fn inheritable(&self) -> Result<Stdio> {
        Ok(Stdio::from(OwnedFd::from(self.stream.try_clone()?)))
    }

    async fn channel(&mut self) -> Result<Channel> {
        if let Some(channel) = &self.channel {
            return Ok(channel.clone());
        }
        let stream = self.stream.try_clone()?;
        stream.set_nonblocking(true)?;
        let stream = Mutex::new(Some(tokio::net::UnixStream::from_std(stream)?));
        let connector = tower::service_fn(move |_: tonic::transport::Uri| {
            let stream = stream.lock().ok().and_then(|mut stream| stream.take());
            async { stream.map(TokioIo::new).ok_or_else(|| std::io::Error::from(std::io::ErrorKind::ConnectionReset)) }
        });
        let channel = Endpoint::from_static("http://failsafed.invalid").connect_with_connector(connector).await?;
        self.channel = Some(channel.clone());
        Ok(channel)
    }

    async fn request(&mut self, line: &str) -> Result<String> {
        let words: Vec<&str> = line.split(' ').collect();
        let channel = self.channel().await?;
        let mut runs = v1::run_service_client::RunServiceClient::new(channel.clone());
        let mut node = v1::node_service_client::NodeServiceClient::new(channel.clone());
        let mut log = v1::log_service_client::LogServiceClient::new(channel);
        let reason = "the test wants it".to_owned();
        Ok(match words.as_slice() {
            ["list"] => shown(runs.list(v1::ListRequest::default()).await, |list| {
                list.runs.into_iter().map(|run| run.name).collect::<Vec<_>>().join(" ")
            }),
            ["entries", from, limit] => {
                let (from, limit) = (from.parse()?, limit.parse()?);
                let request = v1::ListEntriesRequest { from, limit, ..Default::default() };
                shown(log.list_entries(request).await, |page| {
                    let indices: Vec<String> = page.entries.iter().map(|entry| entry.index.to_string()).collect();
                    format!("{} next {} end {}", indices.join(","), page.next, page.end)
                })
            }
            ["prove", entry] => {
                let request = v1::ProveInclusionRequest { entry: entry.parse()? };
                shown(log.prove_inclusion(request).await, |proof| proof.leaf.to_string())
            }
            ["checkpoint"] => shown(log.get_checkpoint(v1::GetCheckpointRequest {}).await, |it| it.entries.to_string()),
            ["extends"] => {
                let latest = log.get_checkpoint(v1::GetCheckpointRequest {}).await?.into_inner().checkpoint;
                let request = v1::ProveConsistencyRequest { old_checkpoint: latest, new_checkpoint: Vec::new() };
                shown(log.prove_consistency(request).await, |proof| proof.old_size.to_string())
            }
            ["health"] => shown(node.health(v1::HealthRequest {}).await, |health| {
                let level = health.node.map_or(v1::HealthLevel::Unspecified, |node| node.level());
                level.as_str_name().to_owned()
            }),
            ["cordon"] => {
                shown(node.cordon(v1::OrderRequest { gpu: String::new(), reason }).await, |_| "cordoned".into())
            }
            ["start", name] => {
                let request = v1::StartRequest {
                    name: (*name).to_owned(),
                    policy_toml: POLICY.into(),
                    policy_file: "plain.toml".into(),
                    ..Default::default()
                };
                shown(runs.start(request).await, |run| run.id)
            }
            ["control", run, command] => {
                let command = match *command {
                    "freeze" => v1::Command::Freeze,
                    "thaw" => v1::Command::Thaw,
                    _ => v1::Command::Kill,
                };
                let request = v1::ControlRequest {
                    run: (*run).to_owned(),
                    command: command.into(),
                    reason,
                    ..Default::default()
                };
                shown(runs.control(request).await, |done| format!("{} {}", done.verdict().as_str_name(), done.run_id))
            }
            _ => bail!("no command `{line}`"),
        })
    }
}

fn shown<T>(answer: Result<tonic::Response<T>, Status>, show: impl FnOnce(T) -> String) -> String {
    match answer {
        Ok(answer) => format!("Ok {}", show(answer.into_inner())),
        Err(status) => format!("{:?} {}", status.code(), status.message().replace('\n', " ")),
    }
}
