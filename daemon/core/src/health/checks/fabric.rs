//! NVML's mask of the health of the NVLink fabric (`nvmlGpuFabricInfo_v3_t`, `healthMask`): fields of bits, each with its own values.

/// What a value of a field means.
struct Field {
    shift: u32,
    width: u32,
    /// The lowest and the highest value that reports a fault.
    bad: (i64, i64),
    fault: &'static str,
}

/// Of the fields of two bits, 1 reports a fault, 2 none, and 0 that the GPU does not have it. The last one has its own values: 1
/// is none, and those from 2 on say what is wrong.
const FIELDS: [Field; 5] = [
    Field { shift: 0, width: 2, bad: (1, 1), fault: "reduced bandwidth" },
    Field { shift: 2, width: 2, bad: (1, 1), fault: "route recovery in progress" },
    Field { shift: 4, width: 2, bad: (1, 1), fault: "unhealthy route" },
    Field { shift: 6, width: 2, bad: (1, 1), fault: "access timeout recovery in progress" },
    Field { shift: 8, width: 4, bad: (2, 15), fault: "incorrect configuration" },
];

/// What the mask reports.
pub(super) fn faults(mask: i64) -> Vec<&'static str> {
    let value = |field: &Field| (mask >> field.shift) & ((1 << field.width) - 1);
    FIELDS.iter().filter(|field| (field.bad.0..=field.bad.1).contains(&value(field))).map(|field| field.fault).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_field_reports_its_own_faults() {
        assert!(faults(0).is_empty(), "the GPU has none of them");
        assert!(faults(0b0001_1010_1010).is_empty(), "no fault");
        assert_eq!(faults(0b0001_1010_1001), ["reduced bandwidth"]);
        assert_eq!(faults(0b0101_1001_1010), ["unhealthy route", "incorrect configuration"]);
    }
}
