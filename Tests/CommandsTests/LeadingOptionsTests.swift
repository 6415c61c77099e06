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
