//! Events that the kernel reports in sum or could not read, and what is recorded of them.

use anyhow::{Result, ensure};
use integration::{Launch, on_node, program};
use std::io::{Read, Write};
use std::net::TcpListener;

#[test]
fn what_is_reported_once_a_second_has_the_number_in_the_record() -> Result<()> {
    const SENT: u64 = 24;
    on_node("repeats", "", |node| {
        let policy = "[policy]\nname = \"p\"\nowner = \"o\"\n[egress]\nallow = []\n[[rule]]\nid = \"leaves\"\n\
                      rationale = \"nothing leaves\"\nwhen = { event = \"send\", verdict = \"denied\" }\n\
                      actions = [\"notify\"]\ncooldown = \"1s\"\n";
        // Over more than two seconds: the same is told at most once in each.
        let script =
            format!("{} --to 127.77.0.9:9 --count {SENT} --pause-ms 100; sleep 600", program("sender")?.display());
        let run = Launch::new("loud", policy).start(node, ["sh", "-c", &script])?;
        let seen = |entry: &serde_json::Value| {
            let decision = &entry["body"]["decision"];
            (decision["cause"]["Rule"]["rule"] == "leaves").then(|| decision["values"][0].clone())
        };
        run.says(&format!("refused: EPERM {SENT} times"))?;
        let entry = node.wait_for_event("what was held back", |e| {
            seen(e).is_some_and(|value| value["repeats"].as_u64() > Some(0))
        })?;
        let counted = node.run("loud")?["kernel"]["denied_calls"].clone();
        ensure!(counted == SENT, "{}", node.run("loud")?);
        // What came within the cooldown is in `suppressed`, and so is what an event stands for.
        let events = node.events()?;
        let told: Vec<u64> = events
            .iter()
            .filter(|entry| seen(entry).is_some())
            .filter_map(|entry| entry["body"]["decision"]["cause"]["Rule"]["suppressed"].as_u64())
            .collect();
        let all = told.iter().map(|suppressed| suppressed + 1).sum::<u64>();
        // What came after the last that was told is in the counter only.
        ensure!(told[0] == 0 && told.len() > 1 && all > SENT / 2 && all <= SENT, "{told:?}");
        let incident = entry["incident"].as_str().unwrap_or_default().to_owned();
        let page = node.ctl(["explain", &incident])?.expect(0)?.out;
        ensure!(page.contains("more like it before"), "{page}");
        ensure!(node.ctl(["replay", "loud"])?.expect(0)?.out.contains("identical"));
        node.log_is_whole()
    })
}

/// RFC 1035, section 4: a question for the A records of `split.org`, after its length.
fn question() -> Vec<u8> {
    let mut out = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in ["split", "org"] {
        out.push(u8::try_from(label.len()).unwrap_or(0));
        out.extend(label.bytes());
    }
    out.extend([0, 0, 1, 0, 1]);
    [&[0, u8::try_from(out.len()).unwrap_or(0)][..], &out].concat()
}

#[test]
fn a_dns_answer_that_could_not_be_read_is_a_gap_of_the_run() -> Result<()> {
    on_node("dnsgap", "", |node| {
        let names = TcpListener::bind("127.53.9.1:53")?;
        let policy = "[policy]\nname = \"p\"\nowner = \"o\"\n[egress]\ndns_servers = [\"127.53.9.1\"]\n\
                      allow = [{ cidr = \"127.53.9.1/32\", ports = 53 }, { host = \"split.org\" }]\n";
        // Its address: an A record for the name asked for.
        let address = [&[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4][..], &[127, 77, 0, 9]].concat();
        let mut answer = question();
        let whole = answer.len() + address.len();
        let bytes: String = answer.iter().map(|byte| format!("\\x{byte:02x}")).collect();
        let script = format!(
            "exec 3<>/dev/tcp/127.53.9.1/53; printf '{bytes}' >&3; echo got $(head -c {whole} <&3 | wc -c); sleep 600"
        );
        let run = Launch::new("asker", policy).start(node, ["bash", "-c", &script])?;
        let (mut asked, _) = names.accept()?;
        asked.set_nodelay(true)?;
        asked.read_exact(&mut vec![0; answer.len()])?;
        // An answer to it, whose address comes in a packet of its own.
        answer[1] += u8::try_from(address.len())?;
        (answer[4], answer[9]) = (answer[4] | 0x80, 1);
        asked.write_all(&answer)?;
        asked.write_all(&address)?;
        let gap = node.wait_for_event("the gap", |e| e["body"]["type"] == "gap")?;
        let what = gap["body"]["what"].as_str().unwrap_or_default();
        ensure!(
            what.contains(
                "the name server 127.53.9.1 was not believed: it came over TCP and was not whole in one packet"
            ),
            "{gap}"
        );
        ensure!(gap["body"]["run"] == run.id() && gap["body"]["lost"].as_u64() >= Some(1), "{gap}");
        // The run itself has its answer.
        run.says(&format!("got {whole}"))?;
        ensure!(node.ctl(["replay", "asker"])?.expect(0)?.out.contains("identical"));
        node.log_is_whole()
    })
}
