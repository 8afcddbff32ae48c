//! The time of a quote on a TPM behind a socket, such as swtpm, as one line of JSON: `quote_bench SOCKET TRIALS`.

use std::{
    env,
    error::Error,
    io::{self, Read, Write},
    os::unix::net::UnixStream,
    time::Instant,
};

use failsafe_tpm::{Tpm, Transport};

struct Socket(UnixStream);

impl Transport for Socket {
    fn exchange(&mut self, command: &[u8]) -> io::Result<Vec<u8>> {
        self.0.write_all(command)?;
        let mut answer = vec![0; 4_096];
        let n = self.0.read(&mut answer)?;
        answer.truncate(n);
        Ok(answer)
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = env::args().skip(1);
    let (Some(socket), Some(trials)) = (args.next(), args.next()) else { return Err("expected SOCKET TRIALS".into()) };
    let trials: usize = trials.parse()?;
    let pcrs = [0, 1, 2, 3, 4, 5, 6, 7, 10];
    let mut tpm = Tpm::new(Socket(UnixStream::connect(socket)?));
    let (mut keys, mut quotes, mut bytes) = (Vec::new(), Vec::new(), 0);
    for _ in 0..trials {
        let began = Instant::now();
        let key = tpm.key()?;
        keys.push(began.elapsed());
        let began = Instant::now();
        let (values, quote) = (tpm.pcrs(&pcrs)?, tpm.quote(&key, &pcrs, &[7; 32])?);
        quotes.push(began.elapsed());
        if quote.quoted.digest != values.digest() {
            return Err("the quote is of other values".into());
        }
        bytes = quote.attest.len() + quote.signature.len();
        tpm.flush(&key)?;
    }
    let median = |mut times: Vec<std::time::Duration>| {
        times.sort();
        times[times.len() / 2].as_secs_f64() * 1e3
    };
    println!("{{\"key_ms\": {}, \"quote_ms\": {}, \"bytes\": {bytes}}}", median(keys), median(quotes));
    Ok(())
}
