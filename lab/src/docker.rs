//! A real Docker engine on a host: containerd and dockerd of its own, with all their data in the
//! host's private `/run`, and an image that is made from busybox, curl and this program. No
//! registry is used.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::binary::{bin, bin_dir};
use crate::command::HostCommand;
use crate::host::Host;
use crate::wait_until;

/// The name of the image on every engine.
pub const IMAGE: &str = "my-image";
/// How long an engine may take to start.
const START: Duration = Duration::from_secs(60);
/// How long one Docker command may take.
const COMMAND: Duration = Duration::from_secs(90);
/// The folder of an engine on its host.
const HOME: &str = "/run/engine";
/// The programs that an engine consists of.
const PROGRAMS: [&str; 4] = ["dockerd", "containerd", "runc", "docker"];
/// The busybox applets in the image.
const APPLETS: [&str; 16] = [
    "sh",
    "ls",
    "cat",
    "sleep",
    "ip",
    "ping",
    "hostname",
    "nslookup",
    "wget",
    "wc",
    "head",
    "dd",
    "sha256sum",
    "true",
    "nc",
    "grep",
];
/// The folders that `lab/engines.sh` makes, the oldest engine first.
const FETCHED: [&str; 2] = ["trixie", "sid"];
/// Where the cgroup hierarchies are.
const CGROUPS: &str = "/sys/fs/cgroup";

/// The engine for a host: the installed one, or one that was unpacked into a folder.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Release {
    folder: Option<PathBuf>,
}

impl Release {
    /// The word for the installed engine, in place of a folder.
    pub const INSTALLED: &str = "installed";

    /// Returns the engine in a folder, which contains `dockerd`, or has it in `usr/sbin` if a
    /// package was unpacked there, and may have the client next to it.
    ///
    /// # Errors
    ///
    /// If there is no `dockerd`.
    pub fn of(folder: &Path) -> Result<Self> {
        if folder == Path::new(Self::INSTALLED) {
            return Ok(Self::default());
        }
        let folder = folder
            .canonicalize()
            .with_context(|| format!("there is no folder {}", folder.display()))?;
        let release = Self { folder: Some(folder) };
        let is_there = release.folders().iter().any(|folder| folder.join("dockerd").exists());
        ensure!(
            is_there,
            "{0} has neither dockerd nor usr/sbin/dockerd: lab/engines.sh fetches engines and prints their folders",
            release
        );

        Ok(release)
    }

    /// Lists the engines that `lab/engines.sh` fetched for the tests, the oldest first.
    ///
    /// # Errors
    ///
    /// If the folder of the programs cannot be determined.
    pub fn fetched() -> Result<Vec<Self>> {
        let target = bin_dir()?.parent().map(|target| target.join("engines")).unwrap_or_default();
        let all = FETCHED.iter().map(|name| target.join(name));

        Ok(all.filter_map(|folder| Self::of(&folder).ok()).collect())
    }

    fn folders(&self) -> Vec<PathBuf> {
        let within =
            |folder: &PathBuf| [folder.clone(), folder.join("usr/sbin"), folder.join("usr/bin")];

        self.folder.iter().flat_map(within).collect()
    }
}

impl std::fmt::Display for Release {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.folder {
            Some(folder) => folder.display().fmt(f),
            None => f.write_str(Self::INSTALLED),
        }
    }
}

impl std::str::FromStr for Release {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::of(Path::new(text))
    }
}

/// A Docker engine on a host, which ends with the host.
#[derive(Clone, Debug)]
pub struct DockerDaemon {
    host: Host,
    release: Release,
    live_restore: bool,
}

impl DockerDaemon {
    /// Returns which of the programs of an engine is missing, if one is.
    #[must_use]
    pub fn missing_program() -> Option<&'static str> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let is_there =
            |name: &&&str| std::env::split_paths(&path).any(|folder| folder.join(name).exists());

        PROGRAMS
            .iter()
            .chain(["busybox", "curl", "tar"].iter())
            .find(|name| !is_there(name))
            .copied()
    }

    /// Starts containerd and dockerd on a host and waits until the engine answers.
    ///
    /// # Errors
    ///
    /// If a program is missing, or the engine does not start.
    pub fn start(host: &Host, release: &Release, live_restore: bool) -> Result<Self> {
        if let Some(program) = Self::missing_program() {
            bail!(
                "{program} is not installed: Docker engines take Debian's docker.io, busybox-static and curl"
            );
        }
        let engine = Self { host: host.clone(), release: release.clone(), live_restore };
        let script = format!(
            "mkdir -p {HOME} && (setsid containerd --root {HOME}/containerd --state {HOME}/containerd-state \
             --address {HOME}/containerd.sock >{HOME}/containerd.log 2>&1 </dev/null &)"
        );
        engine.host.try_command("sh")?.args(["-c", &script]).run()?;
        let listens = || engine.exists(&format!("{HOME}/containerd.sock"));
        wait_until(START, "containerd listens", || listens().unwrap_or(false))?;
        engine.start_daemon()?;

        Ok(engine)
    }

    /// Returns the host it is on.
    #[must_use]
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// Starts dockerd and waits until it answers; returns how long that took.
    ///
    /// # Errors
    ///
    /// If it does not answer in time.
    pub fn start_daemon(&self) -> Result<Duration> {
        let live_restore = if self.live_restore { "--live-restore" } else { "" };
        let group = cgroup(self.host.lab(), self.host.name());
        let script = format!(
            "rm -f {HOME}/dockerd.pid; (setsid dockerd --containerd {HOME}/containerd.sock --data-root {HOME}/data \
             --exec-root {HOME}/exec -p {HOME}/dockerd.pid -s overlay2 -H unix:///run/docker.sock --cgroup-parent {group} \
             {live_restore} >>{HOME}/dockerd.log 2>&1 </dev/null &)"
        );
        self.shell(&script)?.run()?;
        let answers =
            || Ok::<_, anyhow::Error>(self.docker(&["version"])?.output()?.status.success());

        wait_until(START, "the Docker engine answers", || answers().unwrap_or(false))
            .with_context(|| self.last_words())
    }

    fn last_words(&self) -> String {
        let tail = self
            .host
            .try_command("tail")
            .and_then(|tail| tail.args(["-n", "5", "/run/engine/dockerd.log"]).run());

        tail.map(|output| output.stdout).unwrap_or_default()
    }

    fn exists(&self, path: &str) -> Result<bool> {
        Ok(self.host.try_command("test")?.args(["-e", path]).output()?.status.success())
    }

    /// Returns the process id of dockerd inside the host.
    ///
    /// # Errors
    ///
    /// If it does not run.
    pub fn pid(&self) -> Result<i32> {
        let file = format!("{HOME}/dockerd.pid");

        // Helper processes of the engine run the same program.
        self.host.try_command("cat")?.arg(&file).run()?.stdout.trim().parse().context("dockerd.pid")
    }

    /// Ends dockerd with a signal and waits until it is gone. Its containers may live on.
    ///
    /// # Errors
    ///
    /// If it does not run.
    pub fn stop_daemon(&self, signal: &str) -> Result<()> {
        let pid = self.pid()?;
        self.host.kill(pid, signal)?;
        let gone = || self.host.pids_of("dockerd").is_ok_and(|pids| !pids.contains(&pid));

        wait_until(START, "dockerd is gone", gone).map(drop)
    }

    /// Returns a Docker command on its host.
    ///
    /// # Errors
    ///
    /// If the host is gone.
    pub fn docker(&self, args: &[&str]) -> Result<HostCommand> {
        Ok(self.command("docker")?.args(args).deadline(COMMAND))
    }

    /// Returns a command that runs a script on its host, in which `docker` uses this engine.
    ///
    /// # Errors
    ///
    /// If the host is gone.
    pub(crate) fn shell(&self, script: &str) -> Result<HostCommand> {
        Ok(self.command("sh")?.args(["-c", script]))
    }

    fn command(&self, program: &str) -> Result<HostCommand> {
        let command = self.host.try_command(program)?.with_programs_of(&self.release.folders())?;

        Ok(command.env("DOCKER_HOST", "unix:///run/docker.sock"))
    }

    /// Returns the engine's version.
    ///
    /// # Errors
    ///
    /// If it does not answer.
    pub fn version(&self) -> Result<String> {
        self.run(&["version", "-f", "{{.Server.Version}}"])
    }

    /// Runs a Docker command and returns its output.
    ///
    /// # Errors
    ///
    /// If it fails.
    pub fn run(&self, args: &[&str]) -> Result<String> {
        Ok(self.docker(args)?.run()?.stdout.trim_end().to_owned())
    }

    /// Loads the image into the engine.
    ///
    /// # Errors
    ///
    /// If the engine refuses it.
    pub fn load(&self, image: &Image) -> Result<()> {
        let path = format!("{HOME}/image.tar");
        let script = format!("cat > {path}");
        let file = fs::File::open(image.path()).context("the image is gone")?;
        self.host.try_command("sh")?.args(["-c", &script]).input_file(file).run()?;
        let serve = r#"CMD ["/bin/overlay-lab", "serve-http"]"#;
        self.run(&["import", "--change", serve, &path, IMAGE])?;

        self.host.try_command("rm")?.arg(&path).run().map(drop)
    }
}

/// The image: a file that is removed with this value.
#[derive(Debug)]
pub struct Image {
    folder: tempfile::TempDir,
}

impl Image {
    /// Makes the image.
    ///
    /// # Errors
    ///
    /// If a program is missing or cannot be copied.
    pub fn make() -> Result<Self> {
        let folder = tempfile::tempdir().context("no temporary folder can be made")?;
        let root = folder.path().join("root");
        for name in ["bin", "etc", "tmp", "proc", "sys", "dev", "usr/bin"] {
            fs::create_dir_all(root.join(name))?;
        }
        copy(&which("busybox")?, &root.join("bin/busybox"))?;
        for applet in APPLETS {
            symlink("busybox", root.join("bin").join(applet))?;
        }
        for (program, place) in
            [(which("curl")?, "usr/bin/curl"), (bin("overlay-lab")?, "bin/overlay-lab")]
        {
            copy(&program, &root.join(place))?;
            for library in libraries(&program)? {
                copy(&library, &root.join(library.strip_prefix("/")?))?;
            }
        }
        fs::write(root.join("etc/nsswitch.conf"), "hosts: files dns\n")?;
        fs::write(root.join("etc/passwd"), "root:x:0:0::/:/bin/sh\n")?;
        let file = folder.path().join("image.tar");
        let status =
            Command::new("tar").arg("-C").arg(&root).arg("-cf").arg(file).arg(".").status();
        let status = status.context("tar cannot be started")?;
        ensure!(status.success(), "tar failed: {status}");
        fs::remove_dir_all(&root)?;

        Ok(Self { folder })
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("image.tar")
    }
}

fn which(program: &str) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found =
        std::env::split_paths(&path).map(|folder| folder.join(program)).find(|path| path.exists());

    found.with_context(|| format!("{program} is not installed"))
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    if to.exists() {
        return Ok(());
    }
    let folder = to.parent().context("a file is in a folder")?;
    fs::create_dir_all(folder)?;

    fs::copy(from, to).map(drop).with_context(|| format!("cannot copy {}", from.display()))
}

/// Lists the shared libraries of a program, as the loader finds them.
fn libraries(program: &Path) -> Result<BTreeSet<PathBuf>> {
    let output = Command::new("ldd").arg(program).output().context("ldd cannot be started")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let paths = text.split_whitespace().filter(|word| word.starts_with('/')).map(PathBuf::from);
    // The C library loads these by itself, to look up names.
    let loaded = ["libnss_files.so.2", "libnss_dns.so.2", "libresolv.so.2"];
    let beside =
        |path: &PathBuf| loaded.iter().map(|name| path.with_file_name(name)).collect::<Vec<_>>();
    let paths: BTreeSet<_> = paths.collect();
    let libc =
        paths.iter().find(|path| path.ends_with("libc.so.6")).map(beside).unwrap_or_default();

    Ok(paths.iter().cloned().chain(libc).filter(|path| path.exists()).collect())
}

fn cgroup(lab: &str, host: &str) -> String {
    format!("overlay-lab-{lab}-{host}")
}

/// Removes the cgroups that the engines of a lab made, which outlive the lab's processes.
pub(crate) fn forget(lab: &str) {
    let prefix = cgroup(lab, "");
    let top = PathBuf::from(CGROUPS);
    let below = fs::read_dir(&top).into_iter().flatten().flatten().map(|entry| entry.path());
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    for folder in cgroup_folders(&below.chain([top.clone()]).collect::<Vec<_>>(), &own) {
        let groups = fs::read_dir(&folder).into_iter().flatten().flatten();
        for group in groups.filter(|group| group.file_name().to_string_lossy().starts_with(&prefix))
        {
            remove_tree(&group.path());
        }
    }
}

/// Lists the folders in which engines may have made cgroups: the top of each hierarchy, and this
/// process's own group, below which they are if this process runs in a container. `own` is the
/// content of `/proc/self/cgroup`.
fn cgroup_folders(hierarchies: &[PathBuf], own: &str) -> BTreeSet<PathBuf> {
    let paths = own.lines().filter_map(|line| line.splitn(3, ':').nth(2));
    let paths: BTreeSet<&str> =
        paths.map(|path| path.trim_start_matches('/')).chain([""]).collect();

    hierarchies.iter().flat_map(|hierarchy| paths.iter().map(|path| hierarchy.join(path))).collect()
}

/// Removes a cgroup from its leaves up, by removing folders; the files in them belong to the
/// kernel.
fn remove_tree(folder: &Path) {
    let children = fs::read_dir(folder).into_iter().flatten().flatten();
    for child in children.filter(|child| child.file_type().is_ok_and(|kind| kind.is_dir())) {
        remove_tree(&child.path());
    }
    // A cgroup that still has a process is removed when the next lab ends.
    let _ = fs::remove_dir(folder);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cgroups_are_looked_for_at_the_top_and_in_the_own_group() {
        let own = "9:name=systemd:/\n4:memory:/ci/6d17\n0::/\n";
        let hierarchies = ["memory", "unified", ""].map(|name| Path::new(CGROUPS).join(name));

        let folders = cgroup_folders(&hierarchies, own);

        for path in ["", "memory", "memory/ci/6d17", "unified", "ci/6d17"] {
            assert!(folders.contains(&Path::new(CGROUPS).join(path)), "{path}");
        }
    }

    #[test]
    fn a_folder_without_an_engine_is_refused_with_the_script_that_fetches_one() {
        let folder = tempfile::tempdir().expect("a folder");

        let refused = Release::of(folder.path()).unwrap_err().to_string();
        fs::create_dir_all(folder.path().join("usr/sbin")).expect("a folder");
        fs::write(folder.path().join("usr/sbin/dockerd"), "").expect("a file");

        assert!(refused.contains("lab/engines.sh"), "{refused}");
        assert!(Release::of(folder.path()).is_ok());
        assert_eq!(Release::of(Path::new("installed")).ok(), Some(Release::default()));
    }
}
