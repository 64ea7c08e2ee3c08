package work;

/** What a JVM leaves to signals: null checks and the ends of stacks. */
final class Faults {
	private static Object nothing;

	private Faults() {
	}

	static void nullChecks() {
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

	static void deepRecursion() {
		try {
			System.out.println(depth(0));
		} catch (StackOverflowError expected) {
			System.out.println("stack overflow caught");
		}
	}

	private static int depth(int n) {
		return n + depth(n + 1);
	}
}
