//! The command that installs PostgreSQL on the system at hand.

/// For the machine this runs on.
pub(crate) fn command() -> String {
    let os_release = ["/etc/os-release", "/usr/lib/os-release"]
        .iter()
        .find_map(|path| std::fs::read_to_string(path).ok())
        .unwrap_or_default();
    command_for(std::env::consts::OS, &os_release, crate::account::is_root())
}

fn command_for(os: &str, os_release: &str, root: bool) -> String {
    if os == "macos" {
        return "`brew install postgresql@17`".to_owned();
    }
    let field = |name: &str| {
        os_release
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix('='))
            .map(|value| value.trim_matches('"').to_ascii_lowercase())
            .unwrap_or_default()
    };
    let id = field("ID");
    let like = format!("{id} {}", field("ID_LIKE"));
    let is = |name| like.split_whitespace().any(|word| word == name);
    let release: u32 = field("VERSION_ID")
        .split('.')
        .next()
        .and_then(|v| v.parse().ok())
        .unwrap_or(0);

    // Debian 11 and Ubuntu 20.04 carry PostgreSQL 13 and 12: their newer ones come from the
    // PostgreSQL project's own repository. The same goes for the RHEL family's modules up to 9.
    let old_apt = (id == "debian" && (1..12).contains(&release)) || (id == "ubuntu" && (1..22).contains(&release));
    let steps: &[&str] = if old_apt {
        &[
            "apt-get install -y postgresql-common",
            "/usr/share/postgresql-common/pgdg/apt.postgresql.org.sh -y",
            "apt-get install -y postgresql-17",
        ]
    } else if is("debian") || is("ubuntu") {
        &["apt-get update", "apt-get install -y postgresql"]
    } else if id != "fedora" && (is("rhel") || is("centos")) && (1..10).contains(&release) {
        &["dnf module install -y postgresql:16/server"]
    } else if is("fedora") || is("rhel") || is("centos") {
        &["dnf install -y postgresql-server"]
    } else if is("alpine") {
        &["apk add postgresql"]
    } else if is("arch") {
        &["pacman -S --noconfirm postgresql"]
    } else if is("suse") || is("opensuse") {
        &["zypper install -y postgresql-server"]
    } else {
        return "the package manager (see https://www.postgresql.org/download/)".to_owned();
    };
    let sudo = if root { "" } else { "sudo " };
    let steps: Vec<String> = steps.iter().map(|step| format!("{sudo}{step}")).collect();
    format!("`{}`", steps.join(" && "))
}

#[cfg(test)]
mod tests {
    use super::command_for;

    #[test]
    fn each_system_has_its_command() {
        let linux = |text| command_for("linux", text, true);
        assert_eq!(
            linux("PRETTY_NAME=\"Debian GNU/Linux 12\"\nVERSION_ID=\"12\"\nID=debian\n"),
            "`apt-get update && apt-get install -y postgresql`"
        );
        assert_eq!(
            command_for("linux", "ID=linuxmint\nID_LIKE=\"ubuntu debian\"\n", false),
            "`sudo apt-get update && sudo apt-get install -y postgresql`"
        );
        assert!(linux("ID=ubuntu\nVERSION_ID=\"20.04\"").contains("apt.postgresql.org.sh"));
        assert!(!linux("ID=ubuntu\nVERSION_ID=\"22.04\"").contains("apt.postgresql.org.sh"));
        assert_eq!(linux("ID=fedora\nVERSION_ID=43"), "`dnf install -y postgresql-server`");
        assert_eq!(
            linux("ID=\"rocky\"\nID_LIKE=\"rhel centos fedora\"\nVERSION_ID=\"9.4\""),
            "`dnf module install -y postgresql:16/server`"
        );
        assert_eq!(linux("ID=alpine\nVERSION_ID=3.22.1"), "`apk add postgresql`");
        assert_eq!(linux("ID=manjaro\nID_LIKE=arch"), "`pacman -S --noconfirm postgresql`");
        assert_eq!(
            linux("ID=opensuse-leap\nID_LIKE=\"suse opensuse\""),
            "`zypper install -y postgresql-server`"
        );
        assert!(linux("").contains("postgresql.org/download"));
        assert_eq!(command_for("macos", "", false), "`brew install postgresql@17`");
    }
}
