package work;

import java.nio.ByteBuffer;
import java.nio.channels.FileChannel;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardOpenOption;

/** Files by channels, mapped files, directories. */
final class Data {
	private Data() {
	}

	static void files() throws Exception {
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
}
