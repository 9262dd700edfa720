//! A whole Debian with systemd that runs from a disk in a virtual machine, takes commands, and is there again after a
//! restart. What is tried in it is `reboot`'s matter.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use crate::command::{Run, show_tail, step};
use crate::initramfs::{Initramfs, copy};
use crate::kernels::{KEYRING, Kernel, Kernels, debian_mirror, file_name, find};
use crate::machine::{Machine, Scratch, Start};
use crate::setup;

/// The Debian release.
const RELEASE: &str = "bookworm";
/// What it has beyond the essential packages: an init, devices, and what the console's commands use.
const PACKAGES: [&str; 6] = ["systemd-sysv", "udev", "kmod", "procps", "iproute2", "iputils-ping"];
/// One, since another, which the same thread would emulate, takes half as long again to boot.
const CPUS: u32 = 1;
/// Modules without which the disk can't be read, where they are not built in.
const DISK_MODULES: [&str; 2] = ["virtio_pci", "virtio_blk"];

/// Makes the root in `$1` from the mirror `$2`: another's half-made one is thrown away, and so is what nobody reads.
const MAKE_ROOT: &str = r#"
rm -rf "$1.partial"
debootstrap --variant=minbase --include="$3" --keyring="$4" "$5" "$1.partial" "$2"
cd "$1.partial"
rm -rf var/cache/apt/* var/lib/apt/lists/* usr/share/doc usr/share/locale usr/share/man
mv "$1.partial" "$1"
"#;

/// Makes the disk `$4` of the user `$5` from the root `$1` and what is laid over it, `$2`, in the directory `$3`; then
/// come the modules' release and the units that are enabled. What of the disk is not used takes no room here. Nobody logs in, and there is
/// no volume to tidy up, which takes ten seconds.
const MAKE_DISK: &str = r#"
root=$1 files=$2 tree=$3 disk=$4 owner=$5 release=$6
shift 6
trap 'rm -rf "$tree"' EXIT
cp -a "$root" "$tree"
cp -r --preserve=mode "$files/." "$tree"
chroot "$tree" depmod "$release"
chroot "$tree" systemctl --quiet enable "$@"
chroot "$tree" systemctl --quiet mask getty.target e2scrub_reap.service
mkfs.ext4 -q -F -d "$tree" "$disk" 2G
chown "$owner" "$disk"
"#;

/// The first process in memory: finds the disk, and hands over to what is on it.
const INIT: &str = "#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t devtmpfs dev /dev
for module in /modules/*; do insmod $module; done
mkdir /disk
until mount -t ext4 /dev/vda /disk 2>/dev/null; do usleep 50000; done
exec switch_root /disk /sbin/init
";

/// Where the console's unit and script are, and the caller's.
const CONSOLE: &str = "/etc/systemd/system/console.service";
const CONSOLE_SCRIPT: &str = "/usr/lib/console";
const PREPARE: &str = "/usr/lib/prepare";

/// Starts when the boot is over.
const CONSOLE_UNIT: &str = "[Unit]
After=multi-user.target
[Service]
ExecStart=/bin/bash /usr/lib/console
StandardError=journal
[Install]
WantedBy=multi-user.target
";

/// Runs each line that comes over the second serial port, and answers with what it writes and its exit code; what it
/// writes as errors is kept apart. The caller's script comes first.
const CONSOLE_LOOP: &str = r#"
exec </dev/ttyS1 >/dev/ttyS1
stty raw -echo
bash -eu /usr/lib/prepare 2>&1 && echo "@ready" || echo "@ended $?"
while IFS= read -r line; do
  (eval "$line") </dev/null 2>/run/console-errors
  code=$?
  sed 's/^/@error /' /run/console-errors
  echo "@ended $code"
done
"#;
const READY: &str = "@ready";
const ERROR: &str = "@error ";
const ENDED: &str = "@ended ";

/// What is put on the disk besides the distribution.
pub struct Contents<'a> {
    /// Files of this machine and where they go. Shared libraries must be the distribution's.
    pub files: &'a [(&'a Path, &'a str)],
    /// Small files, as path and text.
    pub texts: &'a [(&'a str, &'a str)],
    /// Units that are started at boot, by name.
    pub enabled: &'a [&'a str],
    /// A bash script that is run after each boot, before the first command; it ends where one of its commands fails,
    /// which is an error.
    pub prepare: &'a str,
}

/// A running Debian.
pub struct Debian {
    machine: Machine,
    work: Scratch,
}

/// What a command wrote and how it ended.
pub struct Answer {
    /// Its exit code.
    pub code: i32,
    /// Standard output.
    pub output: String,
    /// Standard error.
    pub errors: String,
}

impl Debian {
    /// Boots `kernel` with a new disk, and waits until the boot is over. `options` are qemu's, for more devices. After
    /// so many `seconds` the machine is killed, whatever it does.
    pub fn boot(
        kernels: &Kernels,
        kernel: &Kernel,
        contents: &Contents<'_>,
        options: &[&str],
        seconds: u32,
    ) -> Result<Self> {
        let work = Scratch::new()?;
        let root = root()?;
        step("making a disk", || make_disk(&work, &root, kernel, contents))?;
        let busybox = kernels.busybox()?;
        let initramfs = Initramfs::new(&work, kernel, &busybox)?;
        initramfs.add_modules(&DISK_MODULES)?;
        initramfs.pack(INIT)?;

        let mut drive = OsString::from("format=raw,if=none,id=disk,cache=unsafe,file="); // thrown away afterwards
        drive.push(work.path("disk"));
        let mut all = vec!["-drive".into(), drive, "-device".into(), "virtio-blk-pci,drive=disk".into()];
        all.extend(options.iter().map(OsString::from));
        let start = Start {
            kernel,
            cpus: CPUS,
            parameters: "systemd.show_status=0",
            work: &work,
            options: &all,
            seconds,
        };
        let machine = start.start()?;
        let mut debian = Self { machine, work };
        match debian.wait_until_ready("its first boot") {
            Ok(()) => Ok(debian),
            Err(error) => {
                debian.work.show_console();
                Err(error)
            }
        }
    }

    /// Runs `command`, a line of bash, as root.
    pub fn run(&mut self, command: &str) -> Result<Answer> {
        self.machine.tell(command)?;
        let (mut output, mut errors) = (String::new(), String::new());
        loop {
            let line = self.line(command)?;
            if let Some(code) = line.strip_prefix(ENDED) {
                let code = code.parse().with_context(|| format!("`{command}` ended with `{code}`"))?;
                return Ok(Answer { code, output, errors });
            }
            ensure!(line != READY, "the machine restarted by itself while it ran `{command}`");
            let (text, line) = match line.strip_prefix(ERROR) {
                Some(line) => (&mut errors, line),
                None => (&mut output, line.as_str()),
            };
            *text += line;
            text.push('\n');
        }
    }

    /// Runs `command`, which restarts the machine, and waits until it is there again.
    pub fn restart(&mut self, command: &str) -> Result<()> {
        self.machine.tell(command)?;
        self.wait_until_ready(command)
    }

    /// Shows how the kernel's words end, and if the machine still answers the journal's, for a failure.
    pub fn show_last_words(&mut self) {
        self.work.show_console();
        if let Ok(journal) = self.run("journalctl --boot --no-pager --no-hostname --output short-monotonic") {
            show_tail(&journal.output);
        }
    }

    fn wait_until_ready(&mut self, doing: &str) -> Result<()> {
        let mut said = Vec::new();
        loop {
            let line = self.line(doing)?;
            match line.strip_prefix(ENDED) {
                _ if line == READY => return Ok(()),
                // A command may end before what it ordered happens.
                Some("0") | None => said.push(line),
                Some(code) => bail!("`{doing}`: exit code {code}, and no restart:\n{}", said.join("\n")),
            }
        }
    }

    fn line(&mut self, doing: &str) -> Result<String> {
        self.machine.line()?.with_context(|| format!("the machine ended, or its time was over, at `{doing}`"))
    }
}

/// The distribution's root directory, which is made once.
fn root() -> Result<PathBuf> {
    // With what it has in its name, another list makes another root.
    let root = setup::cache_directory("vm")?.join(format!("{RELEASE}-{}", PACKAGES.join("-")));
    if root.is_dir() {
        return Ok(root);
    }
    let mirror = debian_mirror()?;
    step(&format!("installing Debian {RELEASE} into {}, once for all clones", root.display()), || {
        as_root(MAKE_ROOT)
            .arg(&root)
            .args([&mirror, &PACKAGES.join(","), KEYRING, RELEASE])
            .next("is the package mirror in reach? `apt-get update`")
            .run_quietly()
    })?;
    Ok(root)
}

fn make_disk(work: &Scratch, root: &Path, kernel: &Kernel, contents: &Contents<'_>) -> Result<()> {
    let files = work.path("files");
    for (file, target) in contents.files {
        copy(file, &files, target)?;
    }
    let own = [
        ("/etc/fstab", "/dev/vda / ext4 defaults 0 1\n"),
        (CONSOLE, CONSOLE_UNIT),
        (CONSOLE_SCRIPT, CONSOLE_LOOP),
        (PREPARE, contents.prepare),
    ];
    for (target, text) in own.iter().chain(contents.texts) {
        let file = files.join(target.trim_start_matches('/'));
        fs::create_dir_all(file.parent().context("a file needs a directory")?)?;
        fs::write(&file, text)?;
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644))?;
    }
    let is_list = |path: &Path| path.ends_with("modules.order");
    let list = find(&kernel.modules, &is_list).context("the kernel has no modules")?;
    let modules = list.parent().context("a file has a directory")?;
    fs::create_dir_all(files.join("usr/lib/modules"))?;
    Run::new("cp").arg("-r").arg(modules).arg(files.join("usr/lib/modules")).run()?;

    let owner = fs::metadata(&files)?;
    let owner = std::os::unix::fs::MetadataExt::uid(&owner).to_string();
    as_root(MAKE_DISK)
        .arg(root)
        .args([&files, &work.path("tree"), &work.path("disk")])
        .args([&owner, file_name(modules).as_ref()])
        .args(contents.enabled)
        .arg(file_name(Path::new(CONSOLE)).as_ref())
        .run_quietly()?;
    Ok(())
}

/// A shell script as root, which stops at the first failure; the arguments follow.
fn as_root(script: &str) -> Run {
    Run::as_root("sh").args(["-euc", script, "sh"])
}
