// C++: exceptions through frames and threads, iostream, std::thread, thread_local, atomics, containers, futures.
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <future>
#include <iomanip>
#include <iostream>
#include <locale>
#include <map>
#include <memory>
#include <mutex>
#include <regex>
#include <shared_mutex>
#include <sstream>
#include <stdexcept>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

static std::atomic<int> constructed{0}, destroyed{0};
struct Local {
	int value = ++constructed;
	~Local() { ++destroyed; }
};
static thread_local Local local;
static thread_local std::string name = "initial";

struct Guard {
	std::string text;
	~Guard() { std::cout << "leaving " << text << '\n'; }
};
struct Odd : std::runtime_error {
	int number;
	explicit Odd(int n) : std::runtime_error("odd " + std::to_string(n)), number(n) {}
};
[[gnu::noinline]] static int collatz(int n, int depth)
{
	Guard guard{"frame " + std::to_string(depth)};
	if (depth == 3)
		throw Odd(n);
	return collatz(n * 3 + 1, depth + 1) + 1;
}

int main()
{
	std::cout << std::boolalpha << true << ' ' << std::setprecision(10) << 3.14159265358979 << ' ' << std::hex << 255 << std::dec << '\n';
	try {
		collatz(7, 0);
	} catch (const Odd &e) {
		std::cout << "caught " << e.what() << ", " << e.number << '\n';
	}
	try {
		std::vector<int>(3).at(5);
	} catch (const std::out_of_range &) {
		std::cout << "out of range\n";
	}
	long caught = 0;
	for (int i = 0; i < 1000; i++)
		try { if (i % 2) throw i; } catch (int n) { caught += n; }
	std::cout << "caught " << caught << '\n';

	std::mutex mutex;
	std::map<int, int> sums;
	std::vector<std::thread> threads;
	for (int i = 0; i < 10; i++)
		threads.emplace_back([&, i] {
			name = "thread " + std::to_string(i);
			int mine = local.value > 0;
			try { throw std::invalid_argument(name); } catch (std::exception &e) { mine += e.what() == name; }
			std::lock_guard lock(mutex);
			sums[i] = i * i + mine;
		});
	for (auto &t : threads)
		t.join();
	for (auto [key, value] : sums)
		std::cout << key << "=" << value << ' ';
	std::cout << "\nthread_local: " << constructed << ' ' << destroyed << ' ' << name << '\n';

	auto future = std::async(std::launch::async, [] { std::this_thread::sleep_for(std::chrono::milliseconds(20)); return 42; });
	std::cout << "future " << future.get() << '\n';
	std::promise<int> promise;
	std::thread([&promise] { try { throw Odd(9); } catch (...) { promise.set_exception(std::current_exception()); } }).join();
	try { promise.get_future().get(); } catch (Odd &e) { std::cout << "across threads: " << e.what() << '\n'; }

	std::condition_variable cv;
	int turn = 0;
	auto player = [&](int me) {
		for (int i = 0; i < 500; i++) {
			std::unique_lock lock(mutex);
			cv.wait(lock, [&] { return turn % 2 == me; });
			turn++;
			cv.notify_all();
		}
	};
	std::thread a(player, 0), b(player, 1);
	a.join(); b.join();
	std::cout << "turns " << turn << '\n';

	std::unordered_map<std::string, std::unique_ptr<int>> map;
	for (int i = 0; i < 10000; i++)
		map["key" + std::to_string(i)] = std::make_unique<int>(i);
	std::cout << "map " << map.size() << ' ' << *map["key777"] << '\n';
	std::cout << "regex " << std::regex_replace("one two three", std::regex("t(\\w)"), "[$1]") << '\n';
	std::istringstream in("1 2 x");
	int x, sum = 0;
	while (in >> x)
		sum += x;
	std::cout << "stream " << sum << ' ' << in.fail() << '\n';
	std::string line;
	int lines = 0;
	while (std::getline(std::cin, line))
		lines++;
	std::cout << "lines " << lines << std::endl;
	return 3;
}
