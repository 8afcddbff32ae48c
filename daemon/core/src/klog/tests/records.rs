//! Records of faults as the kernel writes them, each with the reason that it gives and the device that it is about.

/// A record, its reason, and the PCI address in it.
pub(super) type Fault = (&'static str, &'static str, Option<&'static str>);

/// PCI Express: each form of drivers/pci/pcie, drivers/pci/hotplug and of errors that the firmware hands over.
pub(super) const PCIE: &[Fault] = &[
    ("pcieport 0000:00:03.0: AER: Uncorrected (Fatal) error received: 0000:1b:00.0", "pcie-aer-fatal", Some("1b:00")),
    (
        "pcieport 0000:00:03.0: AER: Multiple Uncorrected (Fatal) error received: 0000:1b:00.0",
        "pcie-aer-fatal",
        Some("1b:00"),
    ),
    (
        "pcieport 0000:00:03.0: AER: Multiple Uncorrectable (Fatal) error message received from 0000:1b:00.0",
        "pcie-aer-fatal",
        Some("1b:00"),
    ),
    ("pcieport 0000:00:03.0: AER: Uncorrected (Fatal) error received: id=0018", "pcie-aer-fatal", None),
    (
        "pcieport 0000:00:03.0: AER: Uncorrectable (Non-Fatal) error message received from 0000:1b:00.0 (no details found",
        "pcie-aer-uncorrected",
        Some("1b:00"),
    ),
    (
        "pcieport 10000:00:03.0: AER: Multiple Uncorrected (Non-Fatal) error received: 10000:1b:00.0",
        "pcie-aer-uncorrected",
        Some("10000:1b:00"),
    ),
    (
        "nvidia 0000:1b:00.0: AER: PCIe Bus Error: severity=Uncorrected (Fatal), type=Inaccessible, (Unregistered Agent ID)",
        "pcie-aer-fatal",
        Some("1b:00"),
    ),
    (
        "nvidia 0000:1b:00.0: PCIe Bus Error: severity=Uncorrectable (Non-Fatal), type=Transaction Layer, (Requester ID)",
        "pcie-aer-uncorrected",
        Some("1b:00"),
    ),
    (
        "cxl_pci 0000:1b:00.0: AER: CXL Bus Error: severity=Uncorrectable (Fatal), type=Transaction Layer, (Requester ID)",
        "pcie-aer-fatal",
        Some("1b:00"),
    ),
    ("nvidia 0000:1b:00.0: AER: aer_uncor_severity: 0x000ef030", "pcie-aer-uncorrected", Some("1b:00")),
    ("pcieport 0000:00:03.0: AER: device recovery failed", "pcie-recovery-failed", None),
    ("pcieport 0000:00:03.0: AER: subordinate device reset failed", "pcie-recovery-failed", None),
    ("pcieport 0000:00:03.0: DPC: containment event, status:0x1f01 source:0x0000", "pcie-link-contained", Some("0:3")),
    (
        "pcieport 0000:00:03.0: DPC: containment event, status:0x0009: unmasked uncorrectable error detected",
        "pcie-link-contained",
        Some("0:3"),
    ),
    (
        "pcieport 0000:00:03.0: DPC: containment event, status:0x000d, ERR_FATAL received from 0000:1b:00.0",
        "pcie-link-contained",
        Some("1b:00"),
    ),
    ("pcieport 0000:00:03.0: DPC: ERR_NONFATAL detected", "pcie-link-contained", Some("0:3")),
    ("pcieport 0000:00:03.0: EDR: EDR event received", "pcie-link-contained", Some("0:3")),
    ("pcieport 0000:00:03.0: pciehp: Slot(12): Link Down", "pcie-device-removed", Some("0:3")),
    ("pcieport 0000:00:03.0: pciehp: Slot(12-1): Card not present", "pcie-device-removed", Some("0:3")),
    ("pcieport 0000:00:03.0: pciehp: Slot(12): Power fault", "pcie-slot-fault", Some("0:3")),
    ("pcieport 0000:00:03.0: pciehp: Slot(12): Cannot train link: status 0x0001", "pcie-slot-fault", Some("0:3")),
    ("vfio-pci 0000:1b:00.0: not ready 65535ms after FLR; giving up", "pcie-device-inaccessible", Some("1b:00")),
    (
        "nvidia 0000:1b:00.0: Unable to change power state from D3hot to D0, device inaccessible",
        "pcie-device-inaccessible",
        Some("1b:00"),
    ),
];

/// Records that are near a fault and are none.
pub(super) const HARMLESS: &[&str] = &[
    "pcieport 0000:00:03.0: AER: device recovery successful",
    "pcieport 0000:00:03.0: AER: Root Port link has been reset (0)",
    "pcieport 0000:00:03.0: AER: enabled with IRQ 24",
    "pcieport 0000:00:03.0: DPC: enabled with IRQ 24",
    "nvidia 0000:1b:00.0: AER: aer_status: 0x00000001, aer_mask: 0x00000000",
    "nvidia 0000:1b:00.0: AER: PCIe Bus Error: severity=Correctable, type=Physical Layer, (Receiver ID)",
    "pcieport 0000:00:03.0: pciehp: Slot(12): Link Down/Up ignored (recovered by DPC)",
    "pcieport 0000:00:03.0: pciehp: Slot(12): Link Up",
    "pcieport 0000:00:03.0: pciehp: Slot(12): Attention button pressed",
    "vfio-pci 0000:1b:00.0: not ready 1023ms after FLR; waiting",
    "NVRM: GPU at PCI:0000:1b:00: GPU-b850f46d-d5ea-c752-ddf3-c4453e44d3f7",
    "NVRM: loading NVIDIA UNIX Open Kernel Module for x86_64  575.57.08  Release Build",
    "NVRM: GPU0 _kgspClassifyGspTimeout: =================== GSP-RM is slow ===================",
    "NVRM: The NVIDIA GPU driver for AArch64 received 0x16 error",
    "amdgpu 0000:03:00.0: amdgpu: 0 uncorrectable hardware errors detected in umc block",
    "amdgpu 0000:03:00.0: amdgpu: no uncorrectable hardware errors detected in umc block",
    "amdgpu 0000:03:00.0: amdgpu: socket: 0, die: 1, 2 uncorrectable hardware errors detected in total in umc block",
    "amdgpu 0000:03:00.0: amdgpu: GPU reset(2) succeeded!",
    "mlx5_core 0000:41:00.0: print_health_info:432:(pid 0): Health issue observed, High temperature, severity(5) NOTICE:",
    "mlx5_core 0000:41:00.0: Port module event: module 0, Cable plugged",
    "mlx5_core 0000:41:00.0: print_health_info:458:(pid 0): synd 0x0: unrecognized error",
    "nvme nvme0: 63/0/0 default/read/poll queues",
    "EXT4-fs (loop3): Remounting filesystem read-only",
    "XFS (loop3): Filesystem has been shut down due to log error (0x2).",
    "XFS (sda2): User initiated shutdown received.",
    "EXT4-fs (sda1): re-mounted 0b1c ro. Quota mode: none.",
    "watchdog: BUG: soft lockup - CPU#1 stuck for 22s! [python3:4242]",
    "INFO: task python3:4242 blocked for more than 120 seconds.",
    "nvidia-nvswitch0: SXid (PCI:0000:c1:00.0): 10004, Thermal slowdown Disengaged",
    "nvidia-nvswitch0: SXid (PCI:0000:c1:00.0): 10004, NVSWITCH Temperature 92C | TSENSE WARN Threshold 90C",
    "nvidia-nvswitch0: SXid (PCI:0000:c1:00.0): 12028, Severity 0 Engine instance 46 Sub-engine instance 00",
    "mce: [Hardware Error]: Machine check events logged",
    "{7}[Hardware Error]: event severity: info",
    "EDAC MC0: Giving out device to module skx_edac controller Skylake Socket#0 IMC#0: DEV 0000:64:0a.0 (INTERRUPT)",
];

/// Records that state their severity.
pub(super) const SEVERITY: &[Fault] = &[
    ("nvidia-nvswitch0: SXid (PCI:0000:c1:00.0): 26006, SOE HALTED", "nvswitch-unknown", Some("c1:00")),
    ("nvidia-nvswitch0: SXid (PCI:0000:c1:00.0): 15006, Fatal, Unexpected PRI error", "nvswitch-fatal", Some("c1:00")),
    (
        "nvidia-nvswitch0: SXid (PCI:0000:c1:00.0): 10005, TSENSE OVERT Threshold reached. Shutting Down",
        "nvswitch-fatal",
        Some("c1:00"),
    ),
    (
        "nvidia-nvswitch0: SXid (PCI:0000:c1:00.0): 10004, Thermal Slowdown Engaged | Temp higher than WARN Threshold",
        "nvswitch-temperature",
        Some("c1:00"),
    ),
    ("nvidia-nvswitch0: SXid (PCI:0000:c1:00.0): 12028, Non-fatal, Link 07 egress", "nvswitch-error", Some("c1:00")),
    ("mce: [Hardware Error]: CPU 5: Machine Check Exception: 5 Bank 8: be00000000800400", "machine-check", None),
    ("mce: [Hardware Error]: CPU 5: Machine Check: 0 Bank 8: fe00000000800400", "machine-check", None),
    ("[Hardware Error]: Uncorrected, software restartable error.", "machine-check", None),
    ("[Hardware Error]: System Fatal error.", "machine-check", None),
    ("[Hardware Error]: Deferred error, no action required.", "machine-check", None),
    ("mce: Uncorrected hardware memory error in user-access at 5c3a2f4c0", "memory-uncorrected", None),
    ("MCE: Killing python3:77 due to hardware memory corruption fault at 7f0000000000", "memory-uncorrected", None),
    ("{12}[Hardware Error]: event severity: recoverable", "firmware-hardware-error", None),
    ("[Hardware Error]: event severity: fatal", "firmware-hardware-error", None),
    ("EDAC MC0: 1 UE memory read error on CPU_SrcID#0_Ha#0_Chan#1_DIMM#0", "memory-uncorrected", None),
    ("EDAC MC0: 262 CE memory read error on CPU_SrcID#0_Ha#0_Chan#1_DIMM#0", "memory-corrected", None),
    (
        "Memory failure: 0x1f3a: Sending SIGBUS to python3:77 due to hardware memory corruption",
        "memory-uncorrected",
        None,
    ),
];

/// Records of errors that were corrected: each with its reason, which comes with the hundredth within an hour.
pub(super) const CORRECTED: &[(&str, &str)] = &[
    ("mce: [Hardware Error]: CPU 5: Machine Check: 0 Bank 8: 8c00004000010090", "machine-check-corrected"),
    ("mce: [Hardware Error]: CPU 5: Machine Check: 0 Bank 8: dc00004000010090", "machine-check-corrected"),
    ("[Hardware Error]: Corrected error, no action required.", "machine-check-corrected"),
    ("{7}[Hardware Error]: event severity: corrected", "firmware-hardware-corrected"),
    ("EDAC MC0: 1 CE memory read error on CPU_SrcID#0_Ha#0_Chan#1_DIMM#0", "memory-corrected"),
    ("nvidia-nvswitch0: SXid (PCI:0000:c1:00.0): 12028, Correctable, Link 07 egress", "nvswitch-corrected"),
    (
        "amdgpu 0000:03:00.0: amdgpu: socket: 0, die: 0, 1 new correctable hardware errors detected in umc block",
        "gpu-memory-corrected",
    ),
];

/// The NVIDIA driver: a GPU that is gone, does not start, or needs a reset or a reboot, in the words of versions 470 to 595.
pub(super) const NVIDIA: &[Fault] = &[
    ("NVRM: GPU 0000:1b:00.0: RmInitAdapter failed! (0x24:0x72:1568)", "gpu-initialization-failed", Some("1b:00")),
    (
        "NVRM: GPU 0000:1b:00.0: rm_init_adapter failed, device minor number 0",
        "gpu-initialization-failed",
        Some("1b:00"),
    ),
    ("NVRM: GPU 0000:1b:00.0: rm_init_private_state() failed!", "gpu-initialization-failed", Some("1b:00")),
    (
        "NVRM: This PCI I/O region assigned to your NVIDIA device is invalid:\nNVRM: BAR1 is 0M @ 0x0 (PCI:0000:1b:00.0)",
        "gpu-initialization-failed",
        Some("1b:00"),
    ),
    (
        "NVRM: GPU 0000:1b:00.0: The kernel has enabled MMIO for the device,\n\
         NVRM: but it still appears unreachable. The device\nNVRM: will not function properly until it is reset.",
        "gpu-unreachable-after-error",
        Some("1b:00"),
    ),
    ("NVRM: GPU 0000:1b:00.0: A fatal error was detected.", "gpu-pcie-error", Some("1b:00")),
    (
        "NVRM: Rate limiting GSP RPC error prints for GPU at PCI:0000:1b:00 (printing 1 of every 30).  The GPU likely needs \
         to be reset.",
        "gpu-firmware-timeout",
        Some("1b:00"),
    ),
    ("NVRM: GPU0 _kgspRpcRecvPoll: GSP RM heartbeat timed out", "gpu-firmware-timeout", None),
    ("NVRM: _kgspRpcRecvPoll: LibOS heartbeat timed out", "gpu-firmware-timeout", None),
    ("NVRM: GSP RM heartbeat timed out", "gpu-firmware-timeout", None),
    (
        "NVRM: GPU3 _kgspIsHeartbeatTimedOut: Heartbeat timed out, currentTimeMs 9 heartbeat 1 heartbeatWithOffsetMs 1 diff 8 \
         timeout 5",
        "gpu-firmware-timeout",
        None,
    ),
    (
        "NVRM: GPU0 _kgspClassifyGspTimeout: =============== GSP-RM unresponsive ==================",
        "gpu-firmware-timeout",
        None,
    ),
    ("NVRM: GPU0 kgspRcAndNotify: Received signal from GSP that PMU has halted.", "gpu-firmware-timeout", None),
    (
        "NVRM: GPU0 _kgspLogXid119: (the GPU is likely in a bad state and may need to be reset)",
        "gpu-firmware-timeout",
        None,
    ),
    (
        "NVRM: kgspHealthCheck_TU102: (the GPU may be in a bad state and may need to be reset)",
        "gpu-firmware-timeout",
        None,
    ),
    (
        "NVRM: GPU0 gpuCheckSecFault_GH100: SEC_FAULT lockdown detected. This is fatal. RM cannot continue.",
        "gpu-security-lockdown",
        None,
    ),
    (
        "NVRM: nvGpuOpsReportFatalError: uvm encountered global fatal error 0x60, requiring os reboot to recover.",
        "gpu-reboot-required",
        None,
    ),
    ("NVRM: uvm encountered global fatal error 0x60, requiring os reboot to recover.", "gpu-reboot-required", None),
];

/// The rest of the host: network cards, disks, file systems, processors, AMD GPUs.
pub(super) const HOST: &[Fault] = &[
    (
        "amdgpu 0000:03:00.0: amdgpu: 3 uncorrectable hardware errors detected in umc block",
        "gpu-memory-uncorrected",
        Some("3:0"),
    ),
    (
        "amdgpu 0000:03:00.0: amdgpu: socket: 0, die: 1, 2 new uncorrectable hardware errors detected in umc block",
        "gpu-memory-uncorrected",
        Some("3:0"),
    ),
    (
        "amdgpu 0000:03:00.0: {7} socket: 0, die: 0, 1 new deferred hardware errors detected in umc block",
        "gpu-memory-uncorrected",
        Some("3:0"),
    ),
    (
        "amdgpu 0000:03:00.0: amdgpu: uncorrectable hardware error(ERREVENT_ATHUB_INTERRUPT) detected!",
        "gpu-reset",
        Some("3:0"),
    ),
    ("amdgpu 0000:03:00.0: amdgpu: GPU reset begin!", "gpu-reset", Some("3:0")),
    ("amdgpu 0000:03:00.0: GPU reset begin!", "gpu-reset", Some("3:0")),
    ("amdgpu 0000:03:00.0: amdgpu: GPU reset(1) failed", "gpu-reset-failed", Some("3:0")),
    ("amdgpu 0000:03:00.0: amdgpu: GPU reset end with ret = -110", "gpu-reset-failed", Some("3:0")),
    ("amdgpu 0000:03:00.0: amdgpu: This GPU is in BAD status.", "gpu-memory-worn", Some("3:0")),
    (
        "mlx5_core 0000:41:00.0: temp_warn:170:(pid 0): High temperature on sensors with bit set 0 1",
        "nic-temperature",
        Some("41:00"),
    ),
    (
        "mlx5_core 0000:41:00.0: port_module:251:(pid 0): Port module event[error]: module 0, Cable error, High Temperature",
        "nic-temperature",
        Some("41:00"),
    ),
    (
        "mlx5_core 0000:41:00.0: Port module event[error]: module 0, Cable error, Bad or shorted cable/module",
        "nic-cable-error",
        Some("41:00"),
    ),
    (
        "mlx5_core 0000:41:00.0: poll_health:852:(pid 0): device's health compromised - reached miss count",
        "nic-firmware-error",
        Some("41:00"),
    ),
    (
        "mlx5_core 0000:41:00.0: print_health_info:432:(pid 0): Health issue observed, firmware internal error, severity(3) ERROR:",
        "nic-firmware-error",
        Some("41:00"),
    ),
    (
        "mlx5_core 0000:41:00.0: print_health_info:432:(pid 0): Health issue observed, HW fatal error\n, severity(2) CRITICAL:",
        "nic-firmware-error",
        Some("41:00"),
    ),
    (
        "mlx5_core 0000:41:00.0: print_health_info:458:(pid 0): synd 0x8: unrecoverable hardware error",
        "nic-firmware-error",
        Some("41:00"),
    ),
    ("mlx5_core 0000:41:00.0: poll_health:869:(pid 0): Fatal error 1 detected", "nic-firmware-error", Some("41:00")),
    ("nvme nvme0: Device not ready; aborting reset, CSTS=0x1", "disk-failed", None),
    ("nvme nvme0: Disabling device after reset failure: -19", "disk-failed", None),
    ("nvme nvme0: Removing after probe failure status: -19", "disk-failed", None),
    ("EXT4-fs (nvme0n1p2): Remounting filesystem read-only", "filesystem-read-only", None),
    ("Aborting journal on device dm-0-8.", "filesystem-read-only", None),
    ("XFS (md127): Filesystem has been shut down due to log error (0x2).", "filesystem-read-only", None),
    (
        "XFS (sda2): Log I/O Error (0x2) detected at xlog_ioend_work. Shutting down filesystem.",
        "filesystem-read-only",
        None,
    ),
    ("BTRFS info (device sda1: state E): forced readonly", "filesystem-read-only", None),
    ("watchdog: Watchdog detected hard LOCKUP on cpu 3", "cpu-lockup", None),
];

/// What counts with the third record within an hour.
pub(super) const REPEATED: &[(&str, &str)] = &[
    ("nvme nvme0: controller is down; will reset: CSTS=0xffffffff, PCI_STATUS=0x10", "disk-resets"),
    ("nvme nvme0: I/O 12 QID 3 timeout, reset controller", "disk-resets"),
    ("nvme nvme0: I/O tag 12 (400c) opcode 0x9 (Admin Cmd) QID 0 timeout, reset controller", "disk-resets"),
    ("blk_update_request: critical medium error, dev sda, sector 7 op 0x0:(READ) flags 0x0", "disk-medium-error"),
    ("critical medium error, dev nvme0n1, sector 7 op 0x0:(READ) flags 0x0", "disk-medium-error"),
    ("CPU3: Core temperature is above threshold, cpu clock is throttled (total events = 7)", "cpu-temperature"),
];
