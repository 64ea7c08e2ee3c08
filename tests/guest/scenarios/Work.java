import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.nio.ByteBuffer;
import java.nio.channels.FileChannel;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardOpenOption;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.stream.IntStream;

/** Threads, garbage, null checks, files and children: what a JVM asks of the system. */
public class Work {
	private static Object nothing;

	public static void main(String[] args) throws Exception {
		threads();
		garbage();
		nullChecks();
		deepRecursion();
		files();
		children();
		System.out.println("parallel " + IntStream.range(0, 200000).parallel().filter(n -> n % 7 == 3).count());
		System.exit(4);
	}

	private static void threads() throws Exception {
		Map<Integer, Integer> counts = new ConcurrentHashMap<>();
		ExecutorService pool = Executors.newFixedThreadPool(8);
		List<Future<?>> all = new ArrayList<>();
		for (int t = 0; t < 16; t++) {
			int thread = t;
			all.add(pool.submit(() -> IntStream.range(0, 2000).forEach(i -> counts.merge((i + thread) % 100, 1, Integer::sum))));
		}
		for (Future<?> future : all) future.get();
		pool.shutdown();
		System.out.println("threads " + counts.values().stream().mapToInt(Integer::intValue).sum());
	}

	private static void garbage() throws Exception {
		Thread[] threads = new Thread[4];
		long[] sums = new long[threads.length];
		for (int t = 0; t < threads.length; t++) {
			int thread = t;
			threads[t] = new Thread(() -> {
				Map<Integer, byte[]> kept = new HashMap<>();
				for (int i = 0; i < 4000; i++) {
					byte[] some = new byte[2000 + i % 3000];
					some[i % 2000] = (byte) i;
					kept.put(i % 500, some);
				}
				for (byte[] some : kept.values()) sums[thread] += some.length;
			});
			threads[t].start();
		}
		for (Thread thread : threads) thread.join();
		System.gc();
		System.out.println("garbage " + (sums[0] + sums[1] + sums[2] + sums[3]));
	}

	private static void nullChecks() {
		int caught = 0;
		for (int i = 0; i < 10000; i++) {
			try {
				caught += nothing.hashCode() == 0 ? 0 : 1;
			} catch (NullPointerException expected) {
				caught++;
			}
		}
		System.out.println("null checks " + caught);
	}

	private static int depth(int n) {
		return n + depth(n + 1);
	}

	private static void deepRecursion() {
		try {
			System.out.println(depth(0));
		} catch (StackOverflowError expected) {
			System.out.println("stack overflow caught");
		}
	}

	private static void files() throws Exception {
		Path dir = Files.createTempDirectory("oxv-java-");
		Path file = dir.resolve("data");
		try (FileChannel channel = FileChannel.open(file, StandardOpenOption.CREATE_NEW, StandardOpenOption.READ, StandardOpenOption.WRITE)) {
			channel.write(ByteBuffer.wrap("0123456789".repeat(1000).getBytes()));
			ByteBuffer mapped = channel.map(FileChannel.MapMode.READ_WRITE, 0, 10000);
			mapped.put(5, (byte) 'x');
			ByteBuffer read = ByteBuffer.allocate(8);
			channel.read(read, 0);
			System.out.println("files " + new String(read.array()) + " " + channel.size());
		}
		Files.move(file, dir.resolve("moved"));
		try (var list = Files.list(dir)) {
			System.out.println("list " + list.map(path -> path.getFileName().toString()).toList());
		}
		Files.delete(dir.resolve("moved"));
		Files.delete(dir);
	}

	private static void children() throws Exception {
		Process process = new ProcessBuilder("/bin/sh", "-c", "read line; echo \"got $line\"; exit 9").redirectErrorStream(true).start();
		process.getOutputStream().write("a line\n".getBytes());
		process.getOutputStream().close();
		try (BufferedReader reader = new BufferedReader(new InputStreamReader(process.getInputStream()))) {
			System.out.println("child " + reader.readLine() + " " + process.waitFor());
		}
	}
}
