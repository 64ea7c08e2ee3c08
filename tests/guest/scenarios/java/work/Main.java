package work;

/** Threads, garbage, null checks, files and children: what a JVM asks of the system. */
public final class Main {
	public static void main(String[] args) throws Exception {
		Threads.threads();
		Threads.parallel();
		Garbage.garbage();
		Faults.nullChecks();
		Faults.deepRecursion();
		Data.files();
		Children.children();
		Children.many();
		System.exit(4);
	}
}
