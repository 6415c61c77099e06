import Testing

@testable import Commands

@Suite struct LeadingOptionsTests {
    @Test(
        "global flags may stand before the verb, as kubectl has it",
        arguments: [
            ("--kubeconfig a get secrets", "get secrets --kubeconfig a"),
            ("--kubeconfig=a -n b get secrets -o yaml", "get secrets -o yaml --kubeconfig=a -n b"),
            ("-nb get pods", "get pods -nb"),
            ("-n b create secret generic x -- y", "create secret generic x -n b -- y"),
            ("get pods -n b", "get pods -n b"),
            ("--help", "--help"), ("-n", "-n"), ("--kubeconfig a", "--kubeconfig a"), ("", ""),
        ])
    func moved(_ given: String, _ expected: String) {
        #expect(LeadingOptions.moved(given.split(separator: " ").map(String.init)) == expected.split(separator: " ").map(String.init))
    }

    @Test("a short flag's value may be joined to it, whatever it holds; a bare --dry-run is the client's", arguments: [
        ("get secret a -nteam -ojsonpath={.a[?(@.b=='c')]}", "get secret a -nteam -o jsonpath={.a[?(@.b=='c')]}"),
        ("get pods -lapp=web -o=yaml -oname", "get pods -l app=web -o=yaml -oname"), ("get pods --l=a -A", "get pods --l=a -A"),
        ("label secret a -- -lx=y", "label secret a -- -lx=y"), ("apply -f - --dry-run", "apply -f - --dry-run=client"),
        ("apply --dry-run server -f -", "apply --dry-run server -f -"), ("apply --dry-run -f x", "apply --dry-run=client -f x"),
    ])
    func joined(given: String, split: String) {
        #expect(JoinedValues.split(given.split(separator: " ").map(String.init)).joined(separator: " ") == split)
    }

    @Test("flags before the verb do not hide it from those after it")
    func together() {
        let words = CofferCommand.normalized(["--kubeconfig", "x", "-n", "a", "rollout", "status", "secret/s", "--watch=false", "-ojsonpath={.a=b}"])
        #expect(words == ["rollout", "status", "secret/s", "--no-watch", "-o", "jsonpath={.a=b}", "--kubeconfig", "x", "-n", "a"])
    }

    @Test("a verb that is none is said to be", arguments: [["bogus"], ["--kubeconfig", "x", "bogus", "y"]])
    func unknownVerb(arguments: [String]) async {
        let (text, code) = await CommandLineRun(server: MemoryServer()).run(arguments)
        #expect(code == 1 && text == "! error: unknown command \"bogus\" for \"cofferctl\"\n! Run 'cofferctl --help' for usage.\n")
    }

    @Test("flags take true and false, as kubectl's do", arguments: [
        ("delete pod p --wait=false", "delete pod p --no-wait"), ("label secret a --overwrite=true x=y", "label secret a --overwrite x=y"),
        ("delete pod p --force=false", "delete pod p"), ("rollout status secret/a --watch=false", "rollout status secret/a --no-watch"),
        ("get secrets --watch=false", "get secrets"), ("get secrets --watch=maybe", "get secrets --watch=maybe"),
        ("annotate secret a note=--wait=true", "annotate secret a note=--wait=true"), ("annotate secret a -- --wait=true", "annotate secret a -- --wait=true"),
    ])
    func booleans(given: String, plain: String) {
        #expect(BooleanFlags.plain(given.split(separator: " ").map(String.init)).joined(separator: " ") == plain)
    }
}
