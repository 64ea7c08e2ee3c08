use strict; use warnings;
use Data::Dumper; use Digest::MD5 'md5_hex'; use List::Util qw(sum shuffle); use Time::HiRes 'sleep'; use POSIX 'floor'; use JSON::PP; use Encode;
$Data::Dumper::Sortkeys = 1; $Data::Dumper::Indent = 1;
print "perl @ARGV\n";
my %count; while (my $line = <STDIN>) { $count{lc $_}++ for $line =~ /(\w+)/g }
print join(", ", map { "$_=$count{$_}" } sort keys %count), "\n";
print Dumper({ list => [1 .. 3], hash => { a => undef } });
print md5_hex("oxv" x 10000), " ", sum(1 .. 100), " ", floor(-2.5), "\n";
print JSON::PP->new->canonical->encode({ b => [1, 2], a => "x" }), "\n";
my $path = "/tmp/script-pl.txt";
open(my $out, '>', $path) or die $!; print $out "$_\n" for 1 .. 1000; close $out;
open(my $in, '<', $path) or die $!; my @lines = <$in>; close $in; unlink $path;
print scalar(@lines), " lines, last $lines[-1]";
eval { die { code => 42 } }; print "caught $@->{code}\n";
local $SIG{ALRM} = sub { die "alarm\n" }; eval { alarm 1; sleep 10; }; print "signal $@";
sub fib { my $n = shift; $n < 2 ? $n : fib($n - 1) + fib($n - 2) } print fib(18), "\n";
printf "%s %.3f %x\n", encode('UTF-8', "\x{263a}"), 1 / 3, 3735928559;
print sprintf("%s", join ",", sort { $a <=> $b } map { $_ ** 2 % 17 } 1 .. 16), "\n";
exit 6;
