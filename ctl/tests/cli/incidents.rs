//! `incident list`, `show` and `watch`, with a stand-in that has pages of one incident.

use crate::{
    fixtures::*,
    support::{Answers, Fake, Service, err, out},
};
use failsafe_proto::v1::{self as pb, incident_service_server as incidents};
use tokio_stream::Iter;
use tonic::{Code, Request, Response, Status};

const FULL: &str = "the audit log is not written as it should be: degraded: disk full";
const WHY: &str = "some incidents are in the audit log only\u{1b}[2J";

#[tonic::async_trait]
impl incidents::IncidentService for Service {
    async fn list_incidents(
        &self,
        request: Request<pb::ListIncidentsRequest>,
    ) -> Result<Response<pb::ListIncidentsResponse>, Status> {
        let request = request.into_inner();
        let at: usize = request.page_token.parse().unwrap_or_default();
        self.note(|asked| asked.list_incidents.push(request));
        let all = &self.answers.incidents;
        self.answer(pb::ListIncidentsResponse {
            incidents: all.iter().skip(at).take(1).cloned().collect(),
            next_page_token: if at + 1 < all.len() { (at + 1).to_string() } else { String::new() },
            revision: 40 + at as u64,
            incomplete: if at == 0 { vec![WHY.into()] } else { Vec::new() },
            ..Default::default()
        })
    }

    async fn get_incident(&self, request: Request<pb::GetIncidentRequest>) -> Result<Response<pb::Incident>, Status> {
        let wanted = request.into_inner().incident;
        let found = self.answers.incidents.iter().find(|incident| incident.id == wanted).cloned();
        self.answer(found.ok_or_else(|| Status::not_found("no such incident"))?)
    }

    type WatchIncidentsStream = Iter<std::vec::IntoIter<Result<pb::WatchIncidentsResponse, Status>>>;

    /// It ends with an error, as when the log cannot be read on.
    async fn watch_incidents(
        &self,
        request: Request<pb::WatchIncidentsRequest>,
    ) -> Result<Response<Self::WatchIncidentsStream>, Status> {
        let request = request.into_inner();
        let (missed, follow) = (request.revision.is_some(), request.follow);
        self.note(|asked| asked.watch_incidents.push(request));
        let incomplete = vec![WHY.to_owned()];
        let state = pb::WatchIncidentsResponse { revision: 40, missed, incomplete, ..Default::default() };
        let incident = self.answers.incidents.first().cloned();
        let mut all =
            vec![Ok(state.clone()), Ok(pb::WatchIncidentsResponse { revision: 41, incident, ..Default::default() })];
        if follow {
            let mark = pb::WatchIncidentsResponse { revision: 42, missed: false, ..state };
            let (log_problem, incomplete) = (FULL.to_owned(), vec![WHY.to_owned(), FULL.to_owned()]);
            all.push(Ok(pb::WatchIncidentsResponse { log_problem, incomplete, ..mark.clone() }));
            all.push(Ok(mark));
            all.push(Err(Status::data_loss("the audit log cannot be read on")));
        }
        self.answer(tokio_stream::iter(all))
    }
}

fn fake() -> Fake {
    let incident = |n: u32| pb::Incident {
        id: format!("inc-5f0c9a1b2c3d-{n}"),
        state: pb::IncidentState::Open as i32,
        standing: "contained".into(),
        run_id: RUN.into(),
        rule: "loss".into(),
        condition: "loss > 4".into(),
        ..Default::default()
    };
    Fake::start(Answers { incidents: (1..=3).map(incident).collect(), ..Default::default() })
}

#[test]
fn all_pages_of_incidents_are_listed_with_why_some_may_be_missing() {
    let fake = fake();
    let output = fake.ctl("incident list --run trainer --state open --rule loss -l team=a");
    assert_eq!(output.status.code(), Some(0));
    for n in 1..=3 {
        assert!(out(&output).contains(&format!("inc-5f0c9a1b2c3d-{n}")), "{}", out(&output));
    }
    let why = "incidents may be missing: some incidents are in the audit log only";
    assert_eq!(err(&output).matches(why).count(), 1, "{}", err(&output));
    assert!(!err(&output).contains('\u{1b}'), "{}", err(&output));
    let asked = std::mem::take(&mut fake.asked.lock().unwrap().list_incidents);
    let tokens: Vec<&str> = asked.iter().map(|request| request.page_token.as_str()).collect();
    assert_eq!(tokens, ["", "1", "2"]);
    for request in &asked {
        assert_eq!(
            (request.run.as_str(), request.rule.as_str(), request.selector.as_str()),
            ("trainer", "loss", "team=a")
        );
        assert_eq!(request.state(), pb::IncidentState::Open);
    }
    let value = json(&fake.ctl("incident list -o json"));
    assert_eq!(value["incidents"].as_array().map(Vec::len), Some(3), "{value}");
    assert_eq!((&value["revision"], value["incomplete"].as_array().map(Vec::len)), (&40.into(), Some(1)), "{value}");
}

#[test]
fn an_incident_is_shown_by_its_id() {
    let fake = fake();
    let output = fake.ctl("incident show inc-5f0c9a1b2c3d-2");
    assert!(out(&output).contains("Incident inc-5f0c9a1b2c3d-2"), "{}", out(&output));
    assert_eq!(json(&fake.ctl("incident show inc-5f0c9a1b2c3d-2 -o json"))["incident"], "inc-5f0c9a1b2c3d-2");
    assert_eq!(fake.ctl("incident show inc-5f0c9a1b2c3d-9").status.code(), Some(6));
}

#[test]
fn a_watch_of_incidents_that_cannot_go_on_ends_with_an_error() {
    let fake = fake();
    let output = fake.ctl("incident watch --rule loss");
    assert_ne!(output.status.code(), Some(0));
    assert!(err(&output).contains("the audit log cannot be read on"), "{}", err(&output));
    assert_eq!(err(&output).matches("incidents may be missing").count(), 1, "{}", err(&output));
    let lines = out(&output);
    assert!(lines.starts_with("watching from revision 40\n") && lines.contains("inc-5f0c9a1b2c3d-1"), "{lines}");
    assert!(!lines.contains("42"), "a revision without a change is no line: {lines}");
    let said = err(&output);
    let full = said.find(FULL).expect(&said);
    let again = said.find("the audit log is written again").expect(&said);
    assert!(full < again, "{said}");
    assert_eq!(said.matches(FULL).count(), 1, "{said}");
    let lines: Vec<serde_json::Value> =
        out(&fake.ctl("incident watch -o json")).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(lines[0]["log_problem"].is_null() && lines[2]["log_problem"] == FULL && lines[3]["log_problem"].is_null());
    let once = out(&fake.ctl("incident watch --once"));
    assert!(once.starts_with("complete up to revision 40\n"), "{once}");
    let output = fake.ctl("incident watch --since 7 --once -o json");
    assert_eq!(output.status.code(), Some(0));
    let lines: Vec<serde_json::Value> = out(&output).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(lines[0]["missed"] == true && lines[0]["incident"].is_null() && lines[0]["incomplete"][0] == WHY);
    assert_eq!(lines[1]["incident"]["incident"], "inc-5f0c9a1b2c3d-1");
    let expected = |revision, follow, rule: &str| pb::WatchIncidentsRequest {
        revision,
        follow,
        rule: rule.into(),
        ..Default::default()
    };
    assert_eq!(
        fake.asked.lock().unwrap().watch_incidents,
        [
            expected(None, true, "loss"),
            expected(None, true, ""),
            expected(None, false, ""),
            expected(Some(7), false, "")
        ]
    );
}

#[test]
fn a_refused_list_of_incidents_has_the_exit_code_of_the_error() {
    let fails = Some(Status::new(Code::NotFound, "no run `x`"));
    let fake = Fake::start(Answers { fails, ..Default::default() });
    assert_eq!(fake.ctl("incident list --run x").status.code(), Some(6));
}
