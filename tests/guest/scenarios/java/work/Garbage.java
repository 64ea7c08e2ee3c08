package work;

import java.lang.ref.WeakReference;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.atomic.AtomicReferenceArray;

/** Stress for a collector: threads that make short-lived and long-lived objects and hand them to each other while one asks for collections. */
final class Garbage {
	private static final int THREADS = 4;
	private static final AtomicReferenceArray<Node> SHARED = new AtomicReferenceArray<>(64);

	private Garbage() {
	}

	static void garbage() throws Exception {
		long[] sums = new long[THREADS];
		Thread[] threads = new Thread[THREADS];
		for (int t = 0; t < THREADS; t++) {
			int thread = t;
			threads[t] = new Thread(() -> sums[thread] = blocks() + trees(thread));
			threads[t].start();
		}
		List<WeakReference<Object>> weak = new ArrayList<>();
		Object kept = new Object();
		for (int i = 0; i < 8; i++) {
			weak.add(new WeakReference<>(i == 3 ? kept : new Object()));
			System.gc();
		}
		for (Thread thread : threads) thread.join();
		System.gc();
		long alive = weak.stream().filter(reference -> reference.get() != null).count();
		System.out.println("garbage " + (sums[0] + sums[1] + sums[2] + sums[3]) + " alive " + alive + " " + (kept != null));
	}

	/** Blocks of which the last five hundred stay; now and then one that is half a region of G1's. */
	private static long blocks() {
		Map<Integer, byte[]> kept = new HashMap<>();
		for (int i = 0; i < 4000; i++) {
			byte[] some = new byte[i % 1000 == 999 ? 900_000 : 2000 + i % 3000];
			some[i % 2000] = (byte) i;
			kept.put(i % 500, some);
		}
		long sum = 0;
		for (byte[] some : kept.values()) sum += some.length;
		return sum;
	}

	/** Trees that are passed around; whoever takes one off adds it up. */
	private static long trees(int thread) {
		long wrong = 0;
		for (int i = 0; i < 300; i++) {
			Node old = SHARED.getAndSet((i * 7 + thread) % SHARED.length(), Node.grow(8, 1));
			if (old != null && old.sum() != 511L * 512 / 2) wrong++;
		}
		return wrong;
	}
}
