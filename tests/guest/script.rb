require "json"; require "digest"; require "set"; require "time"
puts "ruby #{ARGV.join(' ')}"
words = STDIN.read.scan(/\w+/).map(&:downcase).tally.sort.map { |w, n| "#{w}=#{n}" }
puts words.join(" ")
puts JSON.generate({ "a" => [1, nil, 2.5], "b" => { "c" => true } }), Digest::SHA256.hexdigest("oxv" * 1000)
queue = Queue.new
threads = 10.times.map { |i| Thread.new { 100.times { |j| queue << i * j } } }
threads.each(&:join)
sum = 0; sum += queue.pop until queue.empty?
puts "threads #{sum}"
File.write("/tmp/script-rb.txt", (1..100).to_a.join("\n")); puts File.readlines("/tmp/script-rb.txt").sum(&:to_i); File.delete("/tmp/script-rb.txt")
begin; Integer("x"); rescue ArgumentError => e; puts e.message; end
puts Set.new([3, 1, 3]).size, Time.at(0).utc.iso8601, (1..20).inject(:*), 2**200
e = Enumerator.new { |y| a, b = 0, 1; loop { y << a; a, b = b, a + b } }
p e.lazy.select(&:even?).first(8)
trap("USR1") { puts "signal" }; Process.kill("USR1", Process.pid); sleep 0.05
GC.start; puts ObjectSpace.count_objects[:TOTAL] > 0
exit 9
