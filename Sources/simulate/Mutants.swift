import ArgumentParser
import Basics
import Foundation
import Simulation

/// Runs every mutant in a process of its own, since some end in one of the program's own preconditions: that counts as caught too.
enum Mutants {
    static func judge() throws {
        guard Mutant.areCompiledIn else { throw ValidationError("no mutants are compiled in: see `make mutants`") }
        var missed: [String] = []
        for mutant in Mutant.allCases {
            let verdict = try trial(mutant)
            print(pad(mutant.rawValue, 34) + verdict.text)
            fflush(nil)
            if !verdict.isCaught { missed.append(mutant.rawValue) }
        }
        let count = Mutant.allCases.count
        print("\(count - missed.count) of \(count) mutants caught")
        guard missed.isEmpty else { throw ExitCode(1) }
    }
    private static func pad(_ text: String, _ width: Int) -> String { text + String(repeating: " ", count: max(1, width - text.count)) }

    private static func run(_ arguments: [String]) throws -> (text: String, isTrapped: Bool, status: Int32) {
        let process = Process()
        process.executableURL = URL(fileURLWithPath: "/proc/self/exe").resolvingSymlinksInPath()
        process.arguments = arguments
        let output = Pipe()
        process.standardOutput = output
        process.standardError = FileHandle.nullDevice
        try process.run()
        let text = String(decoding: output.fileHandleForReading.readDataToEndOfFile(), as: UTF8.self)
        process.waitUntilExit()
        return (text, process.terminationReason == .uncaughtSignal, process.terminationStatus)
    }
    private static func trial(_ mutant: Mutant) throws -> (isCaught: Bool, text: String) {
        let world = mutant.world
        let (text, isTrapped, _) = try run(["--world", world.rawValue, "--mutant", mutant.rawValue, "--steps", "\(mutant.stepsMax)", "--jobs", "1"])
        let lines = text.split(separator: "\n")
        // "@ seed steps": what was begun, and how many steps had been taken by then.
        guard let begun = lines.last(where: { $0.hasPrefix("@ ") })?.split(separator: " "), begun.count == 3, let before = Int(begun[2]) else {
            return (false, "did not run")
        }
        let verdict: String
        if let caught = lines.last(where: { $0.hasPrefix("caught ") }) {
            let parts = caught.split(separator: " ", maxSplits: 2)
            verdict = "caught after \(parts[1]) steps: \(parts[2])"
        } else if isTrapped {
            verdict = "caught after \(before) steps and part of seed \(begun[1]): a precondition of the program's own"
        } else { return (false, "NOT CAUGHT in \(mutant.stepsMax) steps") }
        // It is the mutant's doing only if the same seed keeps all promises without it.
        let (_, isTrappedAnyway, status) = try run(["--world", world.rawValue, "--seed", String(begun[1])])
        if isTrappedAnyway || status != 0 { return (false, "NOT CAUGHT: seed \(begun[1]) breaks a promise without it, too") }
        return (true, verdict)
    }
}

extension Mutant {
    var world: World {
        switch self {
        case .forwardedAppliedTwice, .deposedAcknowledges, .eventsPublishedTwice, .readBeforeApplied, .appliedIndexAhead, .logCutTooFar,
             .syncSkipped, .leaseEndsEarly, .leaseKeysStay, .keyDestroyedInUse, .compactionTooFar, .historySplitsRevision,
             .damagedVoterReadmitted, .putBackUnnoticed, .nonceTooShort, .keyNameNotBound, .wipeSkipped, .graceNeverEnds, .secretOfOtherNamespace, .olderViewAccepted: .store
        default: .raft
        }
    }
    /// The goal: Raft's own within 50 million steps, those of whole members within 2 million.
    var stepsMax: Int { world == .raft ? 50_000_000 : 2_000_000 }
}
