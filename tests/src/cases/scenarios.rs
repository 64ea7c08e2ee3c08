//! What people do with a system, in one go: run-times with threads and children, compilers, interpreters. The work is in `guest/scenarios`.

use super::data;
use crate::case::Case;
use crate::paths;

/// The cases of this file.
pub(super) fn all() -> Vec<Case> {
    let mut cases = vec![
        Case::installed("scenario/node", "/usr/bin/node").args([file("node.js")]).memory("1G").cpus(&[2]).seconds(240).exit(3),
        shell("scenario/compilers", "compilers.sh", &[]).packages(&["gcc", "g++", "grep"]),
        shell("scenario/configure", "configure.sh", &[configure()]).packages(&["bash", "gcc", "libc6-dev", "make", "sed", "grep", "mawk", "diffutils"]).with_files(configure()).exit(2),
        bash("scenario/git", "git.sh").packages(&["git", "grep", "sed", "tar"]),
        Case::installed("scenario/python", "/usr/bin/python3").args([file("python_processes.py")]).packages(&["dash", "coreutils"]).memory("1G").cpus(&[2]).seconds(300),
        java("scenario/java", &["Default"]),
        java("scenario/java-collectors", &["Serial", "Parallel", "G1", "Z", "Shenandoah"]).seconds(2400).slow(),
        shell("scenario/go-build", "go_build.sh", &[go_program()]).packages(&["golang-go"]).with_files(go_program()).memory("2G").exit(4).slow(),
    ];
    cases.extend(hellos());
    cases
}

fn file(name: &str) -> String {
    paths::guest_source(&format!("scenarios/{name}")).to_string_lossy().into_owned()
}

fn go_program() -> String {
    paths::guest_source("program.go").to_string_lossy().into_owned()
}

/// A shell script with coreutils at hand.
fn shell(name: &str, script: &str, args: &[String]) -> Case {
    let args = std::iter::once(file(script)).chain(args.iter().cloned());
    Case::installed(name, "/bin/sh").args(args).packages(&["coreutils"]).memory("1G").cpus(&[2]).seconds(400)
}

/// The same for bash.
fn bash(name: &str, script: &str) -> Case {
    Case::installed(name, "/bin/bash").args([file(script)]).packages(&["coreutils"]).memory("1G").cpus(&[2]).seconds(400)
}

/// The directory with a program and its `configure`.
fn configure() -> String {
    data::configure().to_string_lossy().into_owned()
}

/// Compiles the project in `java` and runs it under each collector. With this much memory and two CPUs, a JVM without options takes G1.
fn java(name: &str, collectors: &[&str]) -> Case {
    let args: Vec<_> = std::iter::once(file("java")).chain(collectors.iter().map(|&name| name.to_owned())).collect();
    shell(name, "java.sh", &args).packages(&["openjdk-17-jdk-headless"]).with_files(file("java")).memory("2G").exit(4)
}

/// Interpreters that nothing else here runs.
fn hellos() -> Vec<Case> {
    const ERLANG: &str = "Parent = self(), [spawn(fun() -> Parent ! N * N end) || N <- lists:seq(1, 100)],
        io:format(\"~p~n\", [lists:sum([receive X -> X end || _ <- lists:seq(1, 100)])]), halt(3).";
    const PHP: &str = "echo json_encode(array_map(fn($n) => $n ** 2, range(1, 5))), hash('sha256', 'oxv'), \"\\n\"; exit(strlen(`echo four`));";
    vec![
        Case::installed("scenario/erlang", "/usr/bin/erl").args(["-noshell", "-eval", ERLANG]).packages(&["coreutils", "sed", "grep"]).memory("1G").cpus(&[2]).exit(3),
        Case::installed("scenario/php", "/usr/bin/php").args(["-r", PHP]).cpus(&[2]).exit(5),
    ]
}
