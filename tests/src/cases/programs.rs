//! Programs people use: languages' run-times, busybox, coreutils, interpreters, sqlite3.

use super::data;
use crate::case::{Build, Case, Program};
use crate::paths;

const TEXT: &str = "One two two THREE\nfour four four four\n\n  last line\n";
const BUSYBOX: &str = "/bin/busybox";

/// The cases of this file.
pub(super) fn all() -> Vec<Case> {
    let mut cases = languages();
    cases.extend(busybox());
    cases.extend(coreutils());
    cases.extend(observers());
    cases.extend(interpreters());
    cases.push(sqlite());
    cases
}

fn path(path: std::path::PathBuf) -> String {
    path.to_string_lossy().into_owned()
}

fn languages() -> Vec<Case> {
    let source = |name: &str, file, build| Case::new(name, Program::Source(file, build)).args(["x", "y z"]).stdin(TEXT);
    vec![
        source("cxx/cpp", "cpp.cc", Build::Cxx).exit(3),
        source("rust/program", "program.rs", Build::Rust).exit(11),
        source("go/program", "program.go", Build::Go).exit(4),
    ]
}

/// Applets that need no fork.
fn busybox() -> Vec<Case> {
    let (words, tree) = (path(data::words()), path(data::tree()));
    let applet = |name: &str, args: &[&str]| {
        Case::installed(format!("busybox/{name}"), BUSYBOX).args(args.iter().copied()).cpus(&[1, 2, 4])
    };
    vec![
        applet("cat", &["cat", &words]),
        applet("cat-stdin", &["cat", "-"]).stdin(TEXT),
        applet("ls-tree", &["ls", "-1R", &tree]).with_files(&tree),
        applet("sort", &["sort", "-k2,2", "-k4n", &words]),
        applet("awk-sum", &["awk", "{ n += $4; w[$2]++ } END { print n, NR, w[\"mu\"] }", &words]),
        applet("sed", &["sed", "-n", "s/alpha \\([a-z]*\\)/<\\1>/p", &words]),
        applet("grep", &["grep", "-c", "^theta", &words]),
        applet("wc", &["wc", &words]),
        applet("md5sum-50MB", &["md5sum", &path(data::big_file())]).memory("256M").seconds(180),
    ]
}

fn coreutils() -> Vec<Case> {
    let (words, big, tree) = (path(data::words()), path(data::big_file()), path(data::tree()));
    let tool = |name: &str, program: &'static str, args: &[&str]| {
        Case::installed(format!("coreutils/{name}"), program).args(args.iter().copied())
    };
    vec![
        tool("ls", "/bin/ls", &["-1R", "--file-type", &tree]).with_files(&tree),
        tool("ls-long", "/bin/ls", &["-lgo", "--time-style=+%s", &format!("{tree}/one/a.txt"), &format!("{tree}/two/c")])
            .with_files(&tree),
        tool("ls-missing", "/bin/ls", &["/no-such-file"]).exit(2).with_stderr(),
        tool("sha256sum-small", "/usr/bin/sha256sum", &[&words]),
        tool("sha256sum-50MB", "/usr/bin/sha256sum", &[&big]).memory("256M").seconds(180),
        tool("sort", "/usr/bin/sort", &["-k3,3", "-k1,1r", "-s", &words]),
        tool("sort-stdin", "/usr/bin/sort", &["-n", "-r"]).stdin("3\n10\n2\n33\n1\n"),
        tool("date", "/bin/date", &["-u", "-d", "@1700000000", "+%F %T %A"]),
        tool("date-year", "/bin/date", &["+%Y-%m-%d"]),
        tool("env", "/usr/bin/env", &[]).env("OXV_TEST_B", "two words").env("OXV_TEST_A", "1").normalise(test_variables),
        tool("dd", "/bin/dd", &[&format!("if={big}"), "bs=1000", "skip=3", "count=5000", "status=none"]).with_files(&big).memory("256M"),
        tool("dd-devices", "/bin/dd", &["if=/dev/zero", "of=/tmp/oxv-dd", "bs=64k", "count=300", "conv=fsync"]),
        tool("echo", "/bin/echo", &["-n", "no newline"]),
        tool("false", "/bin/false", &[]).exit(1),
        tool("seq", "/usr/bin/seq", &["1", "20000"]),
        tool("head", "/usr/bin/head", &["-c", "100000", &big]).memory("256M"),
        tool("tac", "/usr/bin/tac", &[&words]),
        tool("uniq", "/usr/bin/uniq", &["-c"]).stdin("a\na\nb\na\n"),
        tool("sleep", "/bin/sleep", &["0.2"]),
    ]
}

/// Programs that look at /proc and /sys: what they say differs, its shape does not.
fn observers() -> Vec<Case> {
    let tool = |name: &str, program: &'static str, args: &[&str]| Case::installed(name, program).args(args.iter().copied()).env("LC_ALL", "C");
    vec![
        tool("procps/ps", "/bin/ps", &["-e", "-o", "pid,ppid,stat,nlwp,lstart,time,args"]).normalise(own_line_of_ps),
        tool("procps/free", "/usr/bin/free", &["-k"]).normalise(numbers_as_one),
        tool("procps/vmstat", "/usr/bin/vmstat", &["-w"]).normalise(numbers_as_one),
        tool("procps/top", "/usr/bin/top", &["-b", "-n", "1", "-w", "120"]).env("TERM", "xterm").with_files("/lib/terminfo").normalise(columns_of_top).seconds(120),
        tool("procps/pgrep", "/usr/bin/pgrep", &["-x", "-c", "pgrep-none"]).exit(1),
        tool("util-linux/lscpu", "/usr/bin/lscpu", &[]).normalise(keys_of_lscpu),
        tool("util-linux/findmnt", "/usr/bin/findmnt", &["-n", "-o", "TARGET", "/proc"]),
    ]
}

fn lines(output: &[u8]) -> impl Iterator<Item = String> {
    String::from_utf8_lossy(output).lines().map(str::to_owned).collect::<Vec<_>>().into_iter()
}

/// The heading, and the program and arguments that `ps` shows for itself.
fn own_line_of_ps(output: &[u8]) -> Vec<u8> {
    let heading = lines(output).take(1).map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "));
    let own = lines(output).filter_map(|line| line.find("/bin/ps -e").map(|at| line[at..].to_owned()));
    heading.chain(own).collect::<Vec<_>>().join("\n").into_bytes()
}

/// All words, with N for each number.
fn numbers_as_one(output: &[u8]) -> Vec<u8> {
    let word = |word: &str| if word.bytes().all(|byte| byte.is_ascii_digit()) { "N".to_owned() } else { word.to_owned() };
    let line = |line: String| line.split_whitespace().map(word).collect::<Vec<_>>().join(" ");
    lines(output).map(line).collect::<Vec<_>>().join("\n").into_bytes()
}

/// Which lines come before the table, and its heading. The figures stand close by: `%Cpu(s):100.0 us` on a busy host.
fn columns_of_top(output: &[u8]) -> Vec<u8> {
    let starts = ["top -", "Tasks:", "%Cpu(s):", "MiB Mem", "MiB Swap"];
    let first = lines(output).filter_map(|line| starts.iter().find(|start| line.starts_with(**start)).map(|start| (*start).to_owned()));
    let heading = lines(output).filter(|line| line.trim_start().starts_with("PID")).map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "));
    first.chain(heading).collect::<Vec<_>>().join("\n").into_bytes()
}

/// Which of the things are told that every machine has.
fn keys_of_lscpu(output: &[u8]) -> Vec<u8> {
    let wanted = ["Architecture:", "Byte Order:", "CPU(s):", "On-line CPU(s) list:", "Vendor ID:", "Model name:", "Thread(s) per core:", "Socket(s):"];
    let has = |key: &&&str| lines(output).any(|line| line.trim_start().starts_with(**key));
    wanted.iter().filter(has).copied().collect::<Vec<_>>().join("\n").into_bytes()
}

/// Only the variables the test set itself, sorted: the others may come in any order.
fn test_variables(output: &[u8]) -> Vec<u8> {
    let mut lines: Vec<_> = output.split(|&byte| byte == b'\n').filter(|line| line.starts_with(b"OXV_TEST_")).collect();
    lines.sort_unstable();
    lines.join(&b'\n')
}

/// The lines that `unit_tests.py` itself prints; some tests print how long things took.
fn summary(output: &[u8]) -> Vec<u8> {
    let own = |line: &&[u8]| [b"failed ".as_slice(), b"error ", b"run "].iter().any(|start| line.starts_with(start));
    output.split(|&byte| byte == b'\n').filter(own).collect::<Vec<_>>().join(&b'\n')
}

fn interpreters() -> Vec<Case> {
    let script = |name: &str, program, file: &str, rest: &[&str]| {
        let file = path(paths::guest_source(file));
        let args = std::iter::once(file).chain(rest.iter().map(|&arg| arg.to_owned()));
        Case::installed(name, program).args(args).stdin(TEXT).seconds(240)
    };
    let python_tests = |name: &str, names: &[&str]| {
        script(name, "/usr/bin/python3", "unit_tests.py", names).with_files("/usr/lib/python3.11/test").memory("1G").seconds(600).normalise(summary)
    };
    vec![
        Case::installed("python3/version", "/usr/bin/python3").args(["-c", "import sys; print(sys.version)"]),
        script("python3/script", "/usr/bin/python3", "script.py", &["a", "b"]).exit(5),
        python_tests("python3/test_json", &["test.test_json"]),
        python_tests("python3/test_re", &["test.test_re"]),
        python_tests("python3/test_threading", &["test.test_threading"]),
        python_tests(
            "python3/more",
            &["test.test_queue", "test.test_zlib", "test.test_select", "test.test_mmap", "test.test_epoll", "test.test_poll"],
        )
        .slow(),
        script("perl/script", "/usr/bin/perl", "script.pl", &["a", "b"]).exit(6),
        script("lua/script", "/usr/bin/lua5.4", "script.lua", &["a", "b"]).exit(8),
        script("ruby/script", "/usr/bin/ruby", "script.rb", &["a", "b"]).exit(9),
    ]
}

fn sqlite() -> Case {
    const SQL: &str = "drop table if exists t; create table t(a integer primary key, b text, c real);
        begin; with recursive n(x) as (select 1 union all select x + 1 from n where x < 5000) insert into t select x, 'name' || x, x / 7.0 from n; commit;
        create index i on t(b); select count(*), sum(a), round(sum(c), 3) from t; select * from t where b = 'name77';
        pragma journal_mode = wal; update t set c = c * 2 where a % 2 = 0; delete from t where a % 3 = 0; select count(*), round(avg(c), 4) from t;
        pragma integrity_check;\n.mode json\nselect a, b from t limit 3;\n";
    Case::installed("sqlite3/file", "/usr/bin/sqlite3").args(["/tmp/oxv-sqlite.db"]).stdin(SQL).seconds(180)
}

#[cfg(test)]
mod tests {
    use super::columns_of_top;

    #[test]
    fn a_busy_hosts_top_shows_what_an_idle_one_does() {
        let shown = |load: &str| columns_of_top(format!("top - 14:46:20 up 16:35\n%Cpu(s):{load} us\nMiB Mem : 5.0 total\n\n  PID USER\n    1 root\n").as_bytes());
        assert_eq!(shown("100.0"), b"top -\n%Cpu(s):\nMiB Mem\nPID USER");
        assert_eq!(shown("  3.1"), shown("100.0"));
    }
}
