package work;

import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.stream.IntStream;

/** A pool of threads, and streams in parallel. */
final class Threads {
	private Threads() {
	}

	static void threads() throws Exception {
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

	static void parallel() {
		System.out.println("parallel " + IntStream.range(0, 200000).parallel().filter(n -> n % 7 == 3).count());
	}
}
