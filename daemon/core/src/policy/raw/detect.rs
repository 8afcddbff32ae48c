//! `detect` of a test as it is written: the name of a method, or a table of it and its parameters.

use super::{Fields, Known, Literal, Mistakes};
use crate::{
    detect::{self, Param, Spec},
    policy::{diagnostic::quote, fields::Named},
};
use std::ops::Range;
use toml::Spanned;

/// A method and the parameters that are given.
pub(in crate::policy) struct RawDetect {
    /// `None`: it could not be read, and the mistake is noted.
    pub spec: Option<&'static Spec>,
    pub given: Vec<(&'static Param, Spanned<Literal>)>,
    /// Something in it could not be read.
    pub unreadable: bool,
    pub span: Range<usize>,
}

const FORM: &str = "a method such as \"robust-z\", or a table such as { method = \"robust-z\", limit = 8 }";

impl RawDetect {
    pub(super) fn read(wrong: &mut Mistakes, when: &mut Fields<'_>) -> Option<RawDetect> {
        let span = when.span_of("detect")?;
        let nothing = |span| RawDetect { spec: None, given: Vec::new(), unreadable: true, span };
        let table = match when.named(wrong, "detect", FORM) {
            None => return Some(nothing(span)),
            Some(Named::Alone(name)) => {
                let (spec, _) = method(wrong, &name);
                return Some(RawDetect { spec, given: Vec::new(), unreadable: false, span });
            }
            Some(Named::Table(table)) => table,
        };
        let name = table.get("method").and_then(|value| value.get_ref().as_str());
        let known = name.and_then(detect::method);
        // Without the method the parameters of all methods are known, so that a misspelt method is the only mistake.
        let specs = known.map_or_else(|| detect::ALL.to_vec(), |spec| vec![spec]);
        let mut fields: Vec<&'static str> = vec!["method"];
        for param in specs.iter().flat_map(|spec| spec.params) {
            if !fields.contains(&param.name) {
                fields.push(param.name);
            }
        }
        let known = Known { what: "`detect`", fields: &fields, suggest: &fields, elsewhere: None };
        let mut fields = Fields::of_table(wrong, table, span.clone(), &known);
        fields.require(wrong, "method", "how the values are judged, such as method = \"robust-z\"");
        let (spec, certain) = fields.text(wrong, "method").map_or((None, false), |name| method(wrong, &name));
        let params = spec.iter().flat_map(|spec| spec.params);
        let given = params.filter_map(|param| Some((param, fields.literal(wrong, param.name)?))).collect();
        Some(RawDetect { spec, given, unreadable: fields.unreadable || !certain, span })
    }
}

/// The method, or the one that was probably meant, and whether it is certain.
fn method(wrong: &mut Mistakes, name: &Spanned<String>) -> (Option<&'static Spec>, bool) {
    if let Some(spec) = detect::method(name.get_ref()) {
        return (Some(spec), true);
    }
    let names = || detect::ALL.iter().map(|spec| spec.name);
    let near = crate::policy::diagnostic::nearest(name.get_ref(), names());
    let help = near.map(|near| format!("did you mean `{near}`?"));
    let expected: Vec<&str> = names().collect();
    let message = format!("unknown method {}, expected one of {}", quote(name.get_ref()), expected.join(", "));
    wrong.error(name.span(), message, help);
    (near.and_then(detect::method), false)
}
