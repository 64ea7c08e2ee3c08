package work;

/** A binary tree. */
record Node(Node left, Node right, long value) {
	/** A full tree: the children of the node n have the values 2n and 2n + 1. */
	static Node grow(int depth, long value) {
		return depth == 0 ? new Node(null, null, value) : new Node(grow(depth - 1, 2 * value), grow(depth - 1, 2 * value + 1), value);
	}

	long sum() {
		return value + (left == null ? 0 : left.sum()) + (right == null ? 0 : right.sum());
	}
}
