// A Go program: goroutines, channels, select, timers, garbage collection, signals, panics, files, maps.
package main

import (
	"bufio"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"sort"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

type node struct{ left, right *node }

func tree(depth int) *node {
	if depth == 0 {
		return &node{}
	}
	return &node{tree(depth - 1), tree(depth - 1)}
}
func (n *node) count() int {
	if n.left == nil {
		return 1
	}
	return 1 + n.left.count() + n.right.count()
}

func recovered() (err error) {
	defer func() { err = fmt.Errorf("recovered: %v", recover()) }()
	var p *node
	return errors.New(fmt.Sprint(p.left))
}

func main() {
	fmt.Println("args", os.Args[1:])
	results := make(chan int, 16)
	var group sync.WaitGroup
	for i := 0; i < 1000; i++ {
		group.Add(1)
		go func(i int) { defer group.Done(); results <- i }(i)
	}
	go func() { group.Wait(); close(results) }()
	sum := 0
	for r := range results {
		sum += r
	}
	fmt.Println("goroutines", sum)

	var spins int64
	var stop int32
	for i := 0; i < 4; i++ { // busy loops: only asynchronous preemption lets the others run
		go func() {
			for atomic.LoadInt32(&stop) == 0 {
				spins++
			}
		}()
	}
	start := time.Now()
	time.Sleep(30 * time.Millisecond)
	fmt.Println("slept", time.Since(start) >= 30*time.Millisecond)

	total := 0
	for i := 0; i < 20; i++ {
		total += tree(12).count()
		if i%10 == 0 {
			runtime.GC()
		}
	}
	atomic.StoreInt32(&stop, 1)
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	fmt.Println("trees", total, "collected", stats.NumGC > 0)

	ticker := time.NewTicker(5 * time.Millisecond)
	ticks := 0
	deadline := time.After(5 * time.Second)
loop:
	for {
		select {
		case <-ticker.C:
			if ticks++; ticks == 5 {
				break loop
			}
		case <-deadline:
			break loop
		}
	}
	ticker.Stop()
	fmt.Println("ticks", ticks)

	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGUSR1)
	syscall.Kill(syscall.Getpid(), syscall.SIGUSR1)
	fmt.Println("signal", <-signals)
	fmt.Println(recovered())

	counts := map[string]int{}
	scanner := bufio.NewScanner(os.Stdin)
	for scanner.Scan() {
		for _, w := range strings.Fields(scanner.Text()) {
			counts[w]++
		}
	}
	words := []string{}
	for w, n := range counts {
		words = append(words, fmt.Sprintf("%s:%d", w, n))
	}
	sort.Strings(words)
	fmt.Println(words)
	fmt.Printf("%x\n", sha256.Sum256([]byte(strings.Repeat("oxv", 100000))))
	text, _ := json.Marshal(map[string]interface{}{"a": []int{1, 2}, "b": nil})
	fmt.Println(string(text))
	os.WriteFile("/tmp/go-program", text, 0o600)
	back, err := os.ReadFile("/tmp/go-program")
	fmt.Println(string(back), err)
	os.Remove("/tmp/go-program")
	_, err = os.Open("/tmp/none")
	fmt.Println(err, errors.Is(err, os.ErrNotExist))

	var mutex sync.Mutex
	shared := 0
	var waiters sync.WaitGroup
	for i := 0; i < 50; i++ {
		waiters.Add(1)
		go func() {
			defer waiters.Done()
			for j := 0; j < 200; j++ {
				mutex.Lock()
				shared++
				mutex.Unlock()
			}
		}()
	}
	waiters.Wait()
	fmt.Println("shared", shared)
	os.Exit(4)
}
