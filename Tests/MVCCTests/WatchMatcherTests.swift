import Basics
import Glibc
import Testing

@testable import MVCC

@Suite("finding the watches of a key")
struct WatchMatcherTests {
    @Test("the same watches match as by asking each one, while they come and go", arguments: 1...8 as ClosedRange<UInt64>)
    func againstLinearSearch(seed: UInt64) throws {
        var generator = Generator(seed: seed), matcher = WatchMatcher()
        var all: [(id: UInt64, range: KeyRange)] = []
        for step in 1...2_000 as ClosedRange<UInt64> {
            if generator.chance(60) || all.isEmpty {
                let range = generator.range()
                matcher.register(step, range)
                all.append((step, range))
            } else {
                let gone = all.remove(at: Int(generator.number(0...Int64(all.count - 1))))
                matcher.remove(gone.id)
            }
            if generator.chance(20) {
                let key = generator.key()
                let matches = all.filter { $0.range.contains(key) }.map(\.id).sorted()
                try #require(matcher.match(key) == matches)
                try #require(matches.isEmpty || matcher.watched.contains(key), "no watched key is taken for one that nobody watches")
            }
            try #require(matcher.count == all.count)
        }
        for watch in all { matcher.remove(watch.id) }
        #expect(matcher.match(bytes("a")).isEmpty)
        #expect(matcher.watched == .none)
    }

    @Test("keys are told apart by their first byte: a watch of one use of the store makes no events of another's")
    func watchedBytes() {
        var matcher = WatchMatcher()
        matcher.register(1, .prefix(bytes("o/")))
        matcher.register(2, KeyRange(bytes("s")))
        for (key, isWatched) in [("o/1", true), ("s", true), ("e/1", false), ("p", false), ("", false)] {
            #expect(matcher.watched.contains(bytes(key)) == isWatched, "\(key)")
        }
        matcher.register(3, KeyRange(bytes("x"), end: [0]))
        #expect(matcher.watched.contains([0xff]) && !matcher.watched.contains(bytes("w")))
    }

    @Test("a hundred thousand watches of single keys and ten thousand prefixes answer with theirs alone")
    func many() {
        var matcher = WatchMatcher()
        for i in 0..<100_000 as Range<UInt64> { matcher.register(i, KeyRange(bytes("key/\(i)"))) }
        for i in 0..<10_000 as Range<UInt64> { matcher.register(200_000 + i, .prefix(bytes("dir/\(i)/"))) }
        matcher.register(1_000_000, .prefix([]))
        #expect(matcher.match(bytes("key/77777")) == [77_777, 1_000_000])
        #expect(matcher.match(bytes("dir/123/x")) == [200_123, 1_000_000])
        #expect(matcher.match(bytes("dir/123")) == [1_000_000])
    }

    @Test("watches that begin and end alike go one by one, in any order, and the others stay")
    func alike() {
        for range in [KeyRange(bytes("k")), .prefix(bytes("k"))] {
            var matcher = WatchMatcher()
            for id in 0..<1_000 as Range<UInt64> { matcher.register(id, range) }
            for id in stride(from: 0 as UInt64, to: 1_000, by: 3) { matcher.remove(id) }
            for id in stride(from: 997 as UInt64, through: 1, by: -3) { matcher.remove(id) }
            #expect(matcher.match(bytes("k")) == Array(stride(from: 2 as UInt64, to: 1_000, by: 3)))
            matcher.register(5_000, range)
            for id in stride(from: 2 as UInt64, to: 1_000, by: 3) { matcher.remove(id) }
            #expect(matcher.match(bytes("k")) == [5_000])
        }
    }

    @Test("fifty thousand watches of one key, and of one prefix, end in no time")
    func endTogether() {
        var matcher = WatchMatcher()
        for id in 0..<100_000 as Range<UInt64> { matcher.register(id, id % 2 == 0 ? KeyRange(bytes("k")) : .prefix(bytes("k"))) }
        let begin = processorSeconds()
        for id in 0..<100_000 as Range<UInt64> { matcher.remove(id) }
        #expect(matcher.count == 0 && processorSeconds() - begin < 20)
    }
    /// Of this thread: while others have the processor, no time passes.
    private func processorSeconds() -> Double {
        var time = timespec()
        clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time)
        return Double(time.tv_sec) + Double(time.tv_nsec) / 1e9
    }

    @Test("registering an id again replaces its range; an empty range matches nothing")
    func replacing() {
        var matcher = WatchMatcher()
        matcher.register(1, KeyRange(bytes("a")))
        matcher.register(1, KeyRange(bytes("b"), end: bytes("d")))
        matcher.register(2, KeyRange(bytes("d"), end: bytes("b")))
        #expect(matcher.match(bytes("a")).isEmpty)
        #expect(matcher.match(bytes("c")) == [1])
        matcher.remove(2)
        matcher.remove(2)
        #expect(matcher.count == 1)
    }
}
