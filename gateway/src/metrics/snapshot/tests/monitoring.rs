//! The shipped alert rules and dashboard, held against what is served, with Prometheus's own evaluation (promtool).

use super::{full, text};
use std::{
    collections::BTreeSet,
    fmt::Write as _,
    path::{Path, PathBuf},
    process::Command,
};

fn packaging(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging").join(name)
}

/// What promtool says of a file; `None`: it is not installed, and the test is skipped.
fn promtool(test: &str, args: &[&str], file: &Path) -> Option<(bool, String)> {
    let Ok(promtool) = which::which("promtool") else {
        eprintln!("SKIPPED {test}: promtool is not installed");
        return None;
    };
    let output = Command::new(promtool).args(args).arg(file).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    Some((output.status.success(), said))
}

/// Names of series that are served.
fn served() -> BTreeSet<String> {
    let text = text(Some(&full()));
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines.map(|line| line.split(['{', ' ']).next().unwrap().to_owned()).collect()
}

/// Names of series in a text that begin as ours do.
fn named(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    words.filter(|word| word.starts_with("failsafed_") || word.starts_with("failsafe_")).map(str::to_owned).collect()
}

/// The queries of the dashboard.
fn queries() -> Vec<String> {
    let text = std::fs::read_to_string(packaging("grafana/failsafe.json")).unwrap();
    let dashboard: serde_json::Value = serde_json::from_str(&text).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let targets = panels.iter().flat_map(|panel| panel["targets"].as_array().unwrap());
    targets.map(|target| target["expr"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn alert_rules_and_dashboard_name_series_that_are_served() {
    let served = served();
    let rules = std::fs::read_to_string(packaging("prometheus/failsafe.rules.yml")).unwrap();
    let exprs = rules.lines().filter(|line| !line.trim_start().starts_with(['#', 's', 'd', '-']));
    let rules: String = exprs.collect::<Vec<_>>().join("\n");
    let in_rules = named(&rules);
    assert!(in_rules.len() >= 12, "{in_rules:?}");
    for name in in_rules.iter().chain(&named(&queries().join("\n"))) {
        assert!(served.contains(name), "{name} is not served");
    }
}

#[test]
fn the_reference_names_every_series_and_no_other() {
    let docs = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/metrics.md")).unwrap();
    let (_, table) = docs.split_once("\n## Series\n").unwrap();
    let (table, _) = table.split_once("\n\n**Interventions.**").unwrap();
    let documented: BTreeSet<String> = named(table);
    let parts = ["_bucket", "_sum", "_count"];
    let served: BTreeSet<String> = served()
        .into_iter()
        .map(|name| parts.iter().find_map(|part| name.strip_suffix(part)).map_or(name.clone(), str::to_owned))
        .collect();
    assert_eq!(documented, served);
}

#[test]
fn promtool_finds_the_alert_rules_correct_and_each_one_fires_in_its_case() {
    let test = "promtool_finds_the_alert_rules_correct_and_each_one_fires_in_its_case";
    let Some((correct, said)) = promtool(test, &["check", "rules"], &packaging("prometheus/failsafe.rules.yml")) else {
        return;
    };
    assert!(correct, "{said}");
    let (passed, said) = promtool(test, &["test", "rules"], &packaging("prometheus/failsafe.rules.test.yml")).unwrap();
    assert!(passed, "{said}");
    // Every rule has a case.
    let text = |name: &str| std::fs::read_to_string(packaging(name)).unwrap();
    let (rules, cases) = (text("prometheus/failsafe.rules.yml"), text("prometheus/failsafe.rules.test.yml"));
    let alerts: Vec<&str> = rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    assert!(!alerts.is_empty());
    for alert in alerts {
        assert!(cases.lines().any(|line| line.trim() == format!("- name: {alert}")), "{alert} has no case");
    }
}

#[test]
fn every_query_of_the_dashboard_has_an_answer_on_what_is_served() {
    let test = "every_query_of_the_dashboard_has_an_answer_on_what_is_served";
    let quoted = |text: &str| format!("'{}'", text.replace('\'', "''"));
    let mut file = "evaluation_interval: 1m\ntests:\n  - interval: 1m\n    input_series:\n".to_owned();
    let text = text(Some(&full()));
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (series, value) = line.rsplit_once(' ').unwrap();
        let series = match series.split_once('{') {
            Some((name, labels)) => format!("{name}{{job=\"failsafe\",instance=\"n1\",{labels}"),
            None => format!("{series}{{job=\"failsafe\",instance=\"n1\"}}"),
        };
        // A counter that began before; all others stay as they are.
        let step = if series.contains("_total{") || series.contains("_bucket{") { "1" } else { "0" };
        writeln!(
            file,
            "      - series: {}\n        values: {}",
            quoted(&series),
            quoted(&format!("{value}+{step}x60"))
        )
        .unwrap();
    }
    file.push_str("    promql_expr_test:\n");
    let queries = queries();
    assert!(queries.len() >= 20, "{}", queries.len());
    for query in &queries {
        let query = query.replace("$__rate_interval", "5m").replace("$instance", ".*");
        // The engine has to parse it, and to find at least one series.
        let query = quoted(&format!("count({query}) > bool 0"));
        writeln!(
            file,
            "      - expr: {query}\n        eval_time: 30m\n        exp_samples: [{{ labels: '{{}}', value: 1 }}]"
        )
        .unwrap();
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("dashboard.yml");
    std::fs::write(&path, &file).unwrap();
    if let Some((passed, said)) = promtool(test, &["test", "rules"], &path) {
        assert!(passed, "{said}");
    }
}
