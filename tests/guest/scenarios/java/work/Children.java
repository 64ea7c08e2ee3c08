package work;

import java.io.BufferedReader;
import java.io.File;
import java.io.InputStreamReader;
import java.nio.file.Files;
import java.nio.file.Path;

/** A child that is talked to. */
final class Children {
	private Children() {
	}

	static void children() throws Exception {
		Process process = new ProcessBuilder("/bin/sh", "-c", "read line; echo \"got $line\"; exit 9").redirectErrorStream(true).start();
		process.getOutputStream().write("a line\n".getBytes());
		process.getOutputStream().close();
		try (BufferedReader reader = new BufferedReader(new InputStreamReader(process.getInputStream()))) {
			System.out.println("child " + reader.readLine() + " " + process.waitFor());
		}
	}

	/** Several at once, with an environment and a directory of their own, their output in files. */
	static void many() throws Exception {
		Path dir = Files.createTempDirectory("oxv-java-");
		Process[] processes = new Process[4];
		for (int i = 0; i < processes.length; i++) {
			ProcessBuilder builder = new ProcessBuilder("/bin/sh", "-c", "echo $NUMBER $(pwd); exit $NUMBER").directory(new File("/usr"));
			builder.environment().put("NUMBER", String.valueOf(i));
			processes[i] = builder.redirectOutput(dir.resolve("out" + i).toFile()).start();
		}
		for (int i = 0; i < processes.length; i++) {
			int code = processes[i].waitFor();
			Path out = dir.resolve("out" + i);
			System.out.println("child " + i + ": " + code + " " + Files.readString(out).trim());
			Files.delete(out);
		}
		Files.delete(dir);
		Process sleeper = new ProcessBuilder("/bin/sh", "-c", "read forever").start();
		System.out.println("alive " + sleeper.isAlive());
		sleeper.destroy();
		System.out.println("destroyed " + sleeper.waitFor());
	}
}
